"""The page on the HTTP listener: the fleet, placements and the partition, as they are now."""
