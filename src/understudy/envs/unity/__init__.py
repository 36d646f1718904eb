"""Unity scenes made with ML-Agents: their wire protocol, spoken with grpcio and current protobuf."""
