"""A graph in the Attractor dialect that is killed at every node and comes to the same end."""
