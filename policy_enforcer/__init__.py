"""Policy enforcer: policy and facts about a query in, a decision with reasons out. Pure; imports none of ours."""
