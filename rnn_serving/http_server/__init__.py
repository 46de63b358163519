"""HTTP/1.1 for a WSGI application on a listening socket: greenlets, parsed in C; both servers answer HTTP by it.

server.py           accepts connections, each with a greenlet, and finishes them at a stop
connection.py       one connection: reads requests, asks the application, sends answers
request_reader.py   bytes to requests, by httptools
hand_over.py        results of other threads, for greenlets; native_threads.py calls what blocks
drain.py            ends the arrival of connections before a stop
"""
