"""Submissions for the proofs of the grading: wrong ones, malicious ones, and how to hand them in."""
