"""All that is measured on test rows, and its reports; a run's report is a study of one run."""
