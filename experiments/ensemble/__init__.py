"""Two detectors instead of one: what a search by the stages that ship adds to a detector."""
