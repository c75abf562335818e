"""Is the second stage a better deal than more pixels, behind first stages that people have?"""
