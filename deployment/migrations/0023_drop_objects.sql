-- Which objects of an object store are known, so that they are neither downloaded nor listed as waiting again.

CREATE TABLE apex.drop_objects (
    place    text PRIMARY KEY,
    version  text NOT NULL,
    modified timestamptz NOT NULL,
    bytes    bigint NOT NULL,
    sha256   text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE apex.drop_objects IS 'One row for each drop in an object store that was scored or refused: its URL, its version (etag) and the sha256 of its content.';

CREATE TABLE apex.object_listings (
    place   text PRIMARY KEY,
    mark    text NOT NULL,
    full_at timestamptz NOT NULL
);
COMMENT ON TABLE apex.object_listings IS 'One row for each location with ascending keys: the key up to which every object is known, and when all keys were listed last.';
