"""What each part of the second stage is worth: Table 2 of the paper, and whether super-resolution helps the judge."""
