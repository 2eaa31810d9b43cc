"""All that is measured once the router is fitted, and its reports."""
