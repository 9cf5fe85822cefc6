"""The small interface the engine needs of a broker, and its implementations."""
