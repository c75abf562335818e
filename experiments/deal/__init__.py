"""Is the second stage a good deal? Every first stage here, in four ways, against its cost."""
