"""The command `tidemill`."""
