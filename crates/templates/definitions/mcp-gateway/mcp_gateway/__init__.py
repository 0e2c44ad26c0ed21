"""Starts MCP servers and serves all their tools at one address, on port 50005."""
