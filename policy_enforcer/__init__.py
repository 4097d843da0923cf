"""Policy enforcer: policy and facts in, a decision with reasons out. Pure; imports none of ours."""
