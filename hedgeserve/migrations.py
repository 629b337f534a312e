"""The journal's format, step by step: a journal of any earlier version is brought to today's by those it lacks.

A step that has been released is never changed: another one follows it.
"""

MIGRATIONS: tuple[str, ...] = (
    # 1: the first format. `last_number` only ever grows, so an id is never given twice, whatever becomes of rows.
    """
    CREATE TABLE services (
        name TEXT PRIMARY KEY,
        last_number INTEGER NOT NULL DEFAULT 0
    ) STRICT;

    CREATE TABLE replicas (
        id TEXT PRIMARY KEY,
        service TEXT NOT NULL REFERENCES services (name),
        number INTEGER NOT NULL,
        zone TEXT NOT NULL,
        instance_type TEXT NOT NULL,
        market TEXT NOT NULL,
        usd_per_hour REAL NOT NULL,
        price_read_at TEXT NOT NULL,
        token TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        state_since TEXT NOT NULL,
        created_at TEXT NOT NULL,
        why TEXT NOT NULL,
        vm_id TEXT,
        url TEXT,
        noticed INTEGER NOT NULL DEFAULT 0,
        gone TEXT
    ) STRICT;
    CREATE INDEX replicas_not_gone ON replicas (service) WHERE state != 'gone';
    CREATE TRIGGER replicas_are_counted AFTER INSERT ON replicas BEGIN
        UPDATE services SET last_number = NEW.number WHERE name = NEW.service;
    END;

    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at TEXT NOT NULL,
        kind TEXT NOT NULL,
        message TEXT NOT NULL,
        replica TEXT,
        zone TEXT,
        data TEXT
    ) STRICT;
    CREATE INDEX events_of_a_replica ON events (replica, id) WHERE replica IS NOT NULL;
    CREATE TRIGGER events_are_history BEFORE UPDATE ON events BEGIN
        SELECT RAISE(ABORT, 'events are only ever added');
    END;

    CREATE TABLE ledger (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at TEXT NOT NULL,
        replica TEXT NOT NULL REFERENCES replicas (id),
        seconds REAL NOT NULL,
        usd_per_hour REAL NOT NULL,
        purpose TEXT NOT NULL
    ) STRICT;
    CREATE INDEX ledger_by_time ON ledger (at);
    CREATE TRIGGER ledger_is_not_changed BEFORE UPDATE ON ledger BEGIN
        SELECT RAISE(ABORT, 'the ledger is only ever added to');
    END;
    CREATE TRIGGER ledger_is_not_shortened BEFORE DELETE ON ledger BEGIN
        SELECT RAISE(ABORT, 'the ledger is only ever added to');
    END;

    CREATE TABLE zones (
        policy TEXT PRIMARY KEY,
        memory TEXT NOT NULL,
        saved_at TEXT NOT NULL
    ) STRICT;

    CREATE TABLE lease (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        owner TEXT NOT NULL,
        generation INTEGER NOT NULL
    ) STRICT;
    """,
    # What the dashboard's charts show of the past: sums over slots of time, `data` as web/history.py writes them.
    """
    CREATE TABLE samples (
        width_s INTEGER NOT NULL,
        start_s INTEGER NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (width_s, start_s)
    ) STRICT, WITHOUT ROWID;
    """,
    # A pause that a person has asked for, by service; there is a row while it holds.
    """
    CREATE TABLE pauses (
        service TEXT PRIMARY KEY,
        since TEXT NOT NULL,
        until TEXT,
        drain_s REAL
    ) STRICT;
    """,
    # Versions of what replicas run, and the roll-outs that bring them in. What ran before there were versions is
    # taken for the first. The last roll-out of a service says which version it wants.
    """
    ALTER TABLE replicas ADD COLUMN version INTEGER NOT NULL DEFAULT 1;

    CREATE TABLE versions (
        service TEXT NOT NULL,
        number INTEGER NOT NULL,
        digest TEXT NOT NULL,
        content TEXT NOT NULL,
        made_at TEXT NOT NULL,
        who TEXT NOT NULL,
        why TEXT NOT NULL,
        proven_at TEXT,
        PRIMARY KEY (service, number),
        UNIQUE (service, digest)
    ) STRICT;

    CREATE TABLE rollouts (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        service TEXT NOT NULL,
        from_version INTEGER NOT NULL,
        to_version INTEGER NOT NULL,
        strategy TEXT NOT NULL,
        state TEXT NOT NULL,
        who TEXT NOT NULL,
        why TEXT NOT NULL,
        began_at TEXT NOT NULL,
        switched_at TEXT,
        ended_at TEXT,
        outcome TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX rollouts_of_a_service ON rollouts (service, id);
    """,
    # What the targets would have cost on demand, by hour (UTC); `until` and `usd_per_hour` are the last known.
    """
    CREATE TABLE baseline (
        hour TEXT PRIMARY KEY,
        seconds REAL NOT NULL,
        usd REAL NOT NULL,
        unpriced_s REAL NOT NULL,
        until TEXT NOT NULL,
        usd_per_hour REAL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX ledger_of_a_replica ON ledger (replica, at);
    """,
    # The ledger is bounded by adding up, never by forgetting: a line that is deleted has gone into the sum of its
    # hour, an hour into that of its day, in the same statement. So no sum is changed by it, whoever deletes, and
    # whenever the process is killed. What tells a failed boot from others must outlive the lines: `served`.
    """
    ALTER TABLE replicas ADD COLUMN served INTEGER NOT NULL DEFAULT 0;
    UPDATE replicas SET served = 1 WHERE id IN (SELECT replica FROM ledger WHERE purpose = 'serving');
    CREATE TRIGGER serving_is_remembered AFTER INSERT ON ledger WHEN NEW.purpose = 'serving' BEGIN
        UPDATE replicas SET served = 1 WHERE id = NEW.replica AND NOT served;
    END;

    CREATE TABLE ledger_hours (
        hour TEXT NOT NULL,
        replica TEXT NOT NULL REFERENCES replicas (id),
        purpose TEXT NOT NULL,
        seconds REAL NOT NULL,
        usd REAL NOT NULL,
        until TEXT NOT NULL,
        PRIMARY KEY (hour, replica, purpose)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX ledger_hours_of_a_replica ON ledger_hours (replica, until);
    CREATE TRIGGER hours_only_grow BEFORE UPDATE ON ledger_hours
        WHEN NEW.seconds < OLD.seconds OR NEW.usd < OLD.usd BEGIN
        SELECT RAISE(ABORT, 'the ledger is only ever added to');
    END;

    CREATE TABLE ledger_days (
        day TEXT NOT NULL,
        zone TEXT NOT NULL,
        market TEXT NOT NULL,
        instance_type TEXT NOT NULL,
        purpose TEXT NOT NULL,
        seconds REAL NOT NULL,
        usd REAL NOT NULL,
        PRIMARY KEY (day, zone, market, instance_type, purpose)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER days_only_grow BEFORE UPDATE ON ledger_days
        WHEN NEW.seconds < OLD.seconds OR NEW.usd < OLD.usd BEGIN
        SELECT RAISE(ABORT, 'the ledger is only ever added to');
    END;
    CREATE TRIGGER days_are_kept BEFORE DELETE ON ledger_days BEGIN
        SELECT RAISE(ABORT, 'the ledger is only ever added to');
    END;

    CREATE TABLE baseline_days (
        day TEXT PRIMARY KEY,
        seconds REAL NOT NULL,
        usd REAL NOT NULL,
        unpriced_s REAL NOT NULL
    ) STRICT, WITHOUT ROWID;

    DROP TRIGGER ledger_is_not_shortened;
    CREATE TRIGGER lines_become_hours AFTER DELETE ON ledger BEGIN
        INSERT INTO ledger_hours (hour, replica, purpose, seconds, usd, until)
        VALUES (
            substr(OLD.at, 1, 13), OLD.replica, OLD.purpose,
            OLD.seconds, OLD.seconds * OLD.usd_per_hour / 3600, OLD.at
        )
        ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds, usd = usd + excluded.usd,
            until = max(until, excluded.until);
    END;
    CREATE TRIGGER hours_become_days AFTER DELETE ON ledger_hours BEGIN
        INSERT INTO ledger_days (day, zone, market, instance_type, purpose, seconds, usd)
        SELECT substr(OLD.hour, 1, 10), zone, market, instance_type,
            CASE
                WHEN state IN ('terminating', 'gone') AND NOT served THEN 'failed_boot'
                WHEN OLD.purpose = 'serving' THEN 'serving'
                WHEN OLD.purpose IN ('draining', 'terminating') THEN 'draining'
                ELSE 'booting'
            END,
            OLD.seconds, OLD.usd
        FROM replicas WHERE id = OLD.replica
        ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds, usd = usd + excluded.usd;
    END;
    CREATE TRIGGER baseline_hours_become_days AFTER DELETE ON baseline BEGIN
        INSERT INTO baseline_days (day, seconds, usd, unpriced_s)
        VALUES (substr(OLD.hour, 1, 10), OLD.seconds, OLD.usd, OLD.unpriced_s)
        ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds, usd = usd + excluded.usd,
            unpriced_s = unpriced_s + excluded.unpriced_s;
    END;
    """,
    # What a service wanted when it was last seen, for a controller that is killed to go on with.
    """
    CREATE TABLE wants (
        service TEXT PRIMARY KEY,
        target INTEGER NOT NULL,
        busy_at TEXT NOT NULL,
        awake_until TEXT,
        woken_by TEXT NOT NULL,
        at TEXT NOT NULL
    ) STRICT;
    """,
    # What model files asked for when they were last read, for a restart to tell whether one has changed.
    """
    CREATE TABLE files (
        service TEXT NOT NULL,
        role TEXT NOT NULL,
        path TEXT NOT NULL,
        digest TEXT NOT NULL,
        at TEXT NOT NULL,
        PRIMARY KEY (service, role)
    ) STRICT;
    """,
)
