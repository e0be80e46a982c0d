"""The host: paths, files, units, observed and desired state, differences."""
