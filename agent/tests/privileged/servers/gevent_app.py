"""The application of wsgi.py for the tests, with gevent's server: gevent_app.py PORT LOG"""

import sys

from gevent import monkey, pywsgi

monkey.patch_all()
from wsgi import application  # noqa: E402

log = open(sys.argv[2], "a", buffering=1)
pywsgi.WSGIServer(("127.0.0.1", int(sys.argv[1])), application, log=log).serve_forever()
