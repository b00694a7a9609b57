package discoveryserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nodetun/nodetun/discovery/pkarr"
	"github.com/nodetun/nodetun/identity"
)

// postgres is a Store in a database that speaks PostgreSQL's protocol. Any number of
// servers may use one: that the newest packet stays is decided in the database.
type postgres struct{ pool *pgxpool.Pool }

const (
	postgresConns   = 32
	postgresTimeout = 2 * time.Second // of connecting, and of a statement
)

// The statements. put changes nothing when there is a newer packet, or the same; of two of
// one time the one with the larger DNS message counts, which begins at byte 73.
const (
	postgresCreate = `CREATE TABLE IF NOT EXISTS nodetun_packets (
		id bytea PRIMARY KEY, timestamp bigint NOT NULL, payload bytea NOT NULL, put_at timestamptz NOT NULL)`
	postgresPut = `INSERT INTO nodetun_packets AS p (id, timestamp, payload, put_at) VALUES ($1, $2, $3, now())
		ON CONFLICT (id) DO UPDATE SET timestamp = excluded.timestamp, payload = excluded.payload, put_at = excluded.put_at
		WHERE p.timestamp < excluded.timestamp
			OR p.timestamp = excluded.timestamp AND substring(p.payload FROM 73) < substring(excluded.payload FROM 73)`
	postgresGet   = `SELECT payload FROM nodetun_packets WHERE id = $1`
	postgresEvict = `DELETE FROM nodetun_packets WHERE put_at < $1`
)

// OpenPostgres opens the store of a database, by its URL (postgres://user@host/database), and
// makes its table if it is not there.
func OpenPostgres(ctx context.Context, url string) (Store, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("store: the URL of the database cannot be read") // it may hold a password
	}
	cfg.ConnConfig.ConnectTimeout = postgresTimeout
	cfg.MaxConns = postgresConns
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	p := &postgres{pool}
	if _, err := p.exec(ctx, postgresCreate); err != nil {
		pool.Close()
		return nil, fmt.Errorf("store: %w", err)
	}
	return p, nil
}

// try runs f, which does no harm twice, and once more if the connection was found to be
// dead: the database may have been started anew.
func (p *postgres) try(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, postgresTimeout)
	defer cancel()
	err := f(ctx)
	if answered := new(pgconn.PgError); err == nil || errors.Is(err, pgx.ErrNoRows) || errors.As(err, &answered) && !leaving(answered) || ctx.Err() != nil {
		return err
	}
	p.pool.Reset()
	return f(ctx)
}

// leaving says that the database ends, or has just begun (class 57, operator intervention).
func leaving(err *pgconn.PgError) bool { return strings.HasPrefix(err.Code, "57P") }

func (p *postgres) exec(ctx context.Context, statement string, args ...any) (rows int64, err error) {
	err = p.try(ctx, func(ctx context.Context) error {
		tag, err := p.pool.Exec(ctx, statement, args...)
		rows = tag.RowsAffected()
		return err
	})
	return rows, err
}

func (p *postgres) Put(ctx context.Context, packet pkarr.Packet) error {
	id := packet.ID()
	rows, err := p.exec(ctx, postgresPut, id[:], int64(packet.Timestamp()), packet.Payload())
	if err != nil || rows > 0 {
		return err
	}
	have, err := p.Get(ctx, id)
	if err != nil {
		return err
	}
	return compare(packet, have)
}

func (p *postgres) Get(ctx context.Context, id identity.NodeID) (pkarr.Packet, error) {
	var payload []byte
	err := p.try(ctx, func(ctx context.Context) error { return p.pool.QueryRow(ctx, postgresGet, id[:]).Scan(&payload) })
	if errors.Is(err, pgx.ErrNoRows) {
		return pkarr.Packet{}, ErrNotFound
	}
	if err != nil {
		return pkarr.Packet{}, err
	}
	return pkarr.Restore(id, payload)
}

func (p *postgres) Evict(ctx context.Context, before time.Time) (int, error) {
	tag, err := p.pool.Exec(ctx, postgresEvict, before)
	return int(tag.RowsAffected()), err
}

func (p *postgres) Close() error {
	p.pool.Close()
	return nil
}
