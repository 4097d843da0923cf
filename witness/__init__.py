"""Witness: transparency log, evidence records and their offline verifier. Imports none of ours."""
