"""What two or more of the steps at the root share."""
