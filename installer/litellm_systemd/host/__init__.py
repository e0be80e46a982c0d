"""The host as it is: paths, files, units, observed state, differences."""
