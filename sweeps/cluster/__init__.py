"""The machine or cluster: joining it, what it can hold, what its nodes see, and the files that start it."""
