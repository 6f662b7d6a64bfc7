"""What a request gets: sent by raw sockets through what proxygen renders, and through a bare nginx."""
