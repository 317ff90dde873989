"""A run is never lost: failures, kills and losses of power, at every place where they can come."""
