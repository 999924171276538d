-- What a daemon of schema 1 left, by `sqlite3 eldr.db .dump`.
BEGIN TRANSACTION;
CREATE TABLE models (place INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, record TEXT NOT NULL);
INSERT INTO "models" VALUES(1,'m','{"name": "m", "geometry": {"num_layers": 48, "num_experts": 128, "top_k": 8}, "policy": "locality-band", "policy_parameters": {"tau": 0.2, "load": "tokens"}, "active_version": 3, "history": [1, 2], "next_version": 4, "automatic": [], "refit": ""}');
CREATE TABLE partitions (
    model TEXT NOT NULL, version INTEGER NOT NULL, created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    data BLOB NOT NULL, PRIMARY KEY (model, version)
);
INSERT INTO "partitions" VALUES('m',3,'2026-11-28 13:17:15',X'007468726565');
CREATE TABLE workers (
    place INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, worker_id TEXT NOT NULL,
    record TEXT NOT NULL, UNIQUE (model, worker_id)
);
INSERT INTO "workers" VALUES(1,'m','w0','{"model": "m", "worker_id": "w0", "role": "DECODE", "url": "http://w0:8000", "dp_rank": 1, "group": "rack-1", "labels": {"domain": "code", "name": "\u00d6lpf\u00fctze"}, "capacity_sequences": 64, "capacity_kv_tokens": 18446744073709551615, "state": "READY", "incarnation": 7, "time_to_live": 2.5, "slot": 3, "geometry": null}');
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('workers',1);
COMMIT;
PRAGMA application_id = 1162626130;
PRAGMA user_version = 1;
