"""The stubs of the package `calendars.v1`."""
