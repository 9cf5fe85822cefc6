"""The engine: a pure fold, the turns that feed and commit it, and the API in front."""
