"""The parts of the soak: what is asked, what the answer should be, who asks, and what is measured meanwhile."""
