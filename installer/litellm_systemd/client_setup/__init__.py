"""The settings of client programs for this gateway, and how they merge into the files of a user."""
