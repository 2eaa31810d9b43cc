"""The log is the data set: fetch it, read it, prepare it once, and look at it through windows."""
