"""How a connection behaves; the same for both clients."""

DEFAULT_ADDRESS = "127.0.0.1:50051"
OPTIONS: tuple[tuple[str, int], ...] = (
    # The server limits the size of messages, the client does not.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A connection that died without notice is detected within 40 s, not after hours.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # By default gRPC waits up to two minutes before it looks for a restarted server.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
