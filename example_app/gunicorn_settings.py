"""How gunicorn runs the lending desk: two worker processes of four threads each."""

workers = 2
worker_class = "gthread"
threads = 4
graceful_timeout = 3
# gunicorn from version 25 puts a control socket into the home folder. The desk has no
# use for one; older versions skip a setting that they do not know.
control_socket_disable = True
