"""Documents kept assembled from the log."""
