"""Traffic by variant: what nginx tells of each request, read from a unix datagram socket, counted and kept for minutes.

``lines`` is what one line says, ``tally`` the counts, ``listener`` the socket and the thread that reads it, ``place``
where both sides meet, ``lost`` what nginx could not send.
"""
