"""The record of decisions: everything that a policy was told and answered, so that it can be replayed."""
