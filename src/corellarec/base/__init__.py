"""What every other part may use: errors, files, metrics, devices, the console."""
