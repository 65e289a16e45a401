"""`make bench`: what embedding in the database costs, against the usual script and the bare model.

Every figure is a ratio of two that were measured in the same run, minutes apart at most and in
turns, since times of two machines, or of one machine on two days, cannot be compared.
"""
