//! Bad input gets a clear answer, and the same by REST and by gRPC.
