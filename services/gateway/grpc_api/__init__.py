"""The typed gRPC services, for clients that speak protobuf themselves."""
