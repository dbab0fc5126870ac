"""A part of given images drawn anew, without a look at what was there."""
