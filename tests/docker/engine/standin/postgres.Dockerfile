# Debian's PostgreSQL behind the variables of the official image, for tests without an image registry.
ARG SERVICES_IMAGE
# hadolint ignore=DL3006
FROM ${SERVICES_IMAGE}
ENV PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin LANG=C.UTF-8
RUN install -d -o postgres -g postgres -m 1777 /var/lib/postgresql /var/run/postgresql
COPY postgres.sh /usr/local/bin/docker-entrypoint.sh
ENTRYPOINT ["sh", "/usr/local/bin/docker-entrypoint.sh"]
CMD ["postgres"]
