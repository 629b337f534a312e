/* Clients of a balancer, in one thread; says what they saw in one line of JSON.
 *
 *     load --port P [--stream] [--tls] [--connections C] [--requests N] [--rate R] [--ramp-ms MS] [--seconds S]
 *          [--events N] [--interval-us US] [--without-ids] [--first-stream S] [--slow-ms MS --slow-bytes B]
 *
 * Each connection asks, reads the answer to its end, and asks again while requests are left (--requests; without it
 * until --seconds are over). --rate sends that many a second in all, and latency counts from when one was due.
 * Each stream's text is compared with what the engine must have said, number by number: `wrong` counts streams in
 * which anything was missing, twice, or another's. --slow-ms reads that rarely, and little at a time.
 * SIGUSR1 begins a span for gaps between events, SIGUSR2 ends it; SIGTERM ends the run early, with its line.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BASE 100000000u /* as in engine.c */
#define SPAN 2048u
enum { MOST_HEAD = 8192, MOST_LINE = 4096, STEPS = 7 };

/* -- times: powers of two in 128 steps, an error below 1 % */

typedef struct { uint64_t counts[64 << STEPS], all, most; } histogram;
static histogram latency, first_byte, gap;

static void note(histogram *h, uint64_t ns) {
    int power = ns < (1u << STEPS) ? 0 : 63 - __builtin_clzll(ns) - STEPS + 1;
    uint64_t place = power ? ((uint64_t)power << STEPS) + ((ns >> (power - 1)) & ((1u << STEPS) - 1)) : ns;
    h->counts[place]++;
    h->all++;
    if (ns > h->most) h->most = ns;
}

static double quantile_ms(const histogram *h, double share) {
    uint64_t wanted = (uint64_t)ceil(share * (double)h->all), seen = 0;
    for (int place = 0; h->all && place < 64 << STEPS; place++)
        if ((seen += h->counts[place]) >= wanted) {
            int power = place >> STEPS;
            double ns = power ? ((double)((place & ((1 << STEPS) - 1)) | 1 << STEPS) + 0.5) * exp2(power - 1) : place;
            return ns / 1e6;
        }
    return 0;
}

static void say(const char *name, const histogram *h) {
    printf("\"%s\":{\"count\":%lu,\"p50_ms\":%.4f,\"p90_ms\":%.4f,\"p99_ms\":%.4f,\"most_ms\":%.4f},", name, h->all,
        quantile_ms(h, 0.5), quantile_ms(h, 0.9), quantile_ms(h, 0.99), (double)h->most / 1e6);
}

/* -- TLS, without its headers: the library is looked up when it is asked for */

static void *(*new_session)(void *), *tls_context;
static int (*set_fd)(void *, int), (*tls_read)(void *, void *, int), (*tls_write)(void *, const void *, int);
static int (*tls_error)(const void *, int), (*tls_connect)(void *);
static void (*tls_free)(void *);
enum { WANTS_READ = 2, WANTS_WRITE = 3 };

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) { fprintf(stderr, "load: libssl.so.3 has no %s\n", name); exit(3); }
    return found;
}

static void load_tls(void) {
    void *library = dlopen("libssl.so.3", RTLD_NOW);
    if (!library) { fprintf(stderr, "load: --tls needs libssl.so.3: %s\n", dlerror()); exit(3); }
    void *(*method)(void), *(*context)(const void *);
    *(void **)&method = symbol(library, "TLS_client_method");
    *(void **)&context = symbol(library, "SSL_CTX_new");
    *(void **)&new_session = symbol(library, "SSL_new");
    *(void **)&set_fd = symbol(library, "SSL_set_fd");
    *(void **)&tls_read = symbol(library, "SSL_read");
    *(void **)&tls_write = symbol(library, "SSL_write");
    *(void **)&tls_error = symbol(library, "SSL_get_error");
    *(void **)&tls_connect = symbol(library, "SSL_connect");
    *(void **)&tls_free = symbol(library, "SSL_free");
    tls_context = context(method());
}

/* -- connections */

typedef enum { UNUSED, CONNECTING, SHAKING, ASKED, RESTING } state;
typedef enum { IN_HEAD, IN_LENGTH, IN_SIZE, IN_CHUNK, AFTER_CHUNK, IN_TRAILER, TO_THE_END } part;

typedef struct {
    int fd, fresh, closes, status, heard, ended, finished, bad;
    state state;
    part part;
    void *session;
    unsigned stream, next, events;
    uint64_t asked_ns, last_ns, left;
    char head[MOST_HEAD + 1], line[MOST_LINE];
    size_t head_bytes, line_bytes, request_sent;
} client;

static client *clients;
static int port, streaming, tls, connections = 1, ramp_ms, events = 200, interval_us, with_ids = 1, slow_ms, slow_bytes = 512;
static unsigned next_stream = 1;
static uint64_t requests;
static double rate, seconds;
static int poll_fd, open_connections, spans;
static uint64_t begun, done, failed, wrong, over, told, reads;
static char example[200];
static volatile sig_atomic_t stopping, span_begins, span_ends;

static void on_signal(int which) {
    if (which == SIGUSR1) span_begins = 1;
    else if (which == SIGUSR2) span_ends = 1;
    else stopping = 1;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void complain(const char *what, const char *detail) {
    if (example[0]) return;
    snprintf(example, sizeof example, "%s: %.150s", what, detail);
    for (char *at = example; *at; at++) if (*at < 32 || *at > 126 || *at == '"' || *at == '\\') *at = ' ';
}

static void drop(client *c) {
    if (c->session) tls_free(c->session);
    close(c->fd);
    c->session = NULL, c->fd = -1, c->state = UNUSED;
    open_connections--;
}

static void watch(client *c, int how, uint32_t wanted) {
    struct epoll_event event = {.events = wanted, .data.u32 = (uint32_t)(c - clients)};
    epoll_ctl(poll_fd, how, c->fd, &event);
}

static void dial(client *c) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1, small = 4096;
    if (fd < 0) { perror("load: socket"); exit(1); }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (slow_ms) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = fd, c->state = CONNECTING, c->fresh = 1;
    open_connections++;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) { perror("load: connect"); exit(1); }
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

static void ask(client *c) {
    char body[600], request[1200];
    c->state = ASKED, c->part = IN_HEAD, c->status = c->heard = c->ended = c->finished = c->closes = c->bad = 0;
    c->head_bytes = c->line_bytes = 0, c->left = 0, c->events = 0;
    c->next = BASE + c->stream * SPAN;
    int size = snprintf(body, sizeof body, "{\"model\":\"bench\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"},"
        "{\"role\":\"user\",\"content\":\"@@n=%d,i=%d,s=%u,t=%d@@ Tell me a story.\"}],\"max_tokens\":%d,\"temperature\":0.7,\"stream\":%s}",
        events, interval_us, c->stream, with_ids, events, streaming ? "true" : "false");
    int all = snprintf(request, sizeof request, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: load\r\nAccept: */*\r\n"
        "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", port, size, body);
    /* A small request on a socket that nothing waits on: sent in part means that it is dead, and reading will say so. */
    ssize_t sent = c->session ? tls_write(c->session, request, all) : send(c->fd, request, (size_t)all, MSG_NOSIGNAL);
    if (sent != all) c->closes = 1;
    watch(c, EPOLL_CTL_MOD, slow_ms ? 0 : EPOLLIN);
}

static void begin(client *c, uint64_t due) {
    if (stopping || (requests && begun >= requests)) return;
    begun++;
    c->asked_ns = due, c->stream = next_stream++ % 40000;
    if (c->state == RESTING) ask(c);
    else dial(c);
}

static void finish(client *c, uint64_t now, const char *failure) {
    over++;
    if (failure || c->status != 200) {
        failed++;
        complain(failure ? failure : "the status is not 200", c->head_bytes ? c->head : "no answer");
    } else if (streaming ? c->bad || !c->ended || !c->finished || c->next != BASE + c->stream * SPAN + (unsigned)events : c->bad || !c->heard) {
        wrong++;
        c->line[c->line_bytes < MOST_LINE ? c->line_bytes : MOST_LINE - 1] = 0;
        if (!example[0]) snprintf(example, sizeof example, "stream %u: %u of %d tokens, finish_reason %d, DONE %d, first fault %d", c->stream,
            c->next - (BASE + c->stream * SPAN), events, c->finished, c->ended, c->bad);
    } else {
        done++;
        note(&latency, now - c->asked_ns);
    }
    if (failure || c->closes) drop(c);
    else c->state = RESTING;
    if (rate <= 0) begin(c, now);
}

/* -- answers */

static void event(client *c, const char *line, size_t length, uint64_t now) {
    if (length < 6 || memcmp(line, "data: ", 6)) return;
    c->events++, told++;
    if (c->heard) {
        if (!spans || spans == 1) note(&gap, now - c->last_ns);
    } else note(&first_byte, now - c->asked_ns);
    c->heard = 1, c->last_ns = now;
    if (length == 12 && !memcmp(line + 6, "[DONE]", 6)) { c->ended = 1; return; }
    const char *text = memmem(line, length, "\"content\":\"", 11), *reason = memmem(line, length, "\"finish_reason\":\"", 17);
    if (text && text[11] != '"') {
        unsigned number = 0;
        int i = 13;
        while (text[i] >= '0' && text[i] <= '9') number = number * 10 + (unsigned)(text[i++] - '0');
        if (text[11] != ' ' || text[12] != 't' || text[i] != '"' || number != c->next) c->bad = c->bad ? c->bad : (int)c->events;
        c->next++;
    }
    if (memmem(line, length, "\"error\"", 7)) { c->bad = c->bad ? c->bad : (int)c->events; complain("in the stream", line); }
    if (reason) {
        c->finished++;
        if (memcmp(reason + 17, "length\"", 7) && memcmp(reason + 17, "stop\"", 5)) c->bad = c->bad ? c->bad : (int)c->events;
    }
}

static void text(client *c, const char *bytes, size_t length, uint64_t now) {
    if (!streaming) { c->heard = 1; if (c->bad == 0 && length > 8 && memmem(bytes, length, "\"error\"", 7)) c->bad = 1; return; }
    while (length) {
        const char *end = memchr(bytes, '\n', length);
        size_t part = end ? (size_t)(end - bytes) : length;
        if (c->line_bytes || !end) {
            if (c->line_bytes + part >= MOST_LINE) { c->bad = 1; c->line_bytes = 0; part = length; end = NULL; }
            else { memcpy(c->line + c->line_bytes, bytes, part); c->line_bytes += part; }
            if (end) { event(c, c->line, c->line_bytes, now); c->line_bytes = 0; }
        } else event(c, bytes, part, now);
        size_t used = end ? part + 1 : part;
        bytes += used, length -= used;
    }
}

static const char *header(const char *head, const char *name) {
    for (const char *line = strstr(head, "\r\n"); line && line[2]; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, strlen(name))) return line + 2 + strlen(name);
    return NULL;
}

/* Returns 0 where the answer is over. */
static int input(client *c, const char *bytes, size_t length, uint64_t now) {
    while (length) {
        size_t used = length;
        const char *end;
        switch (c->part) {
        case IN_HEAD: {
            size_t before = c->head_bytes, room = MOST_HEAD - before;
            memcpy(c->head + before, bytes, used = length < room ? length : room);
            c->head[c->head_bytes = before + used] = 0;
            char *last = strstr(c->head, "\r\n\r\n");
            if (!last) {
                if (c->head_bytes == MOST_HEAD) { finish(c, now, "a head without an end"); return 0; }
                break;
            }
            used = (size_t)(last - c->head) + 4 - before;
            last[4] = 0;
            c->status = atoi(c->head + 9);
            const char *size = header(c->head, "content-length:"), *coding = header(c->head, "transfer-encoding:"), *kept = header(c->head, "connection:");
            c->closes |= !strncmp(c->head, "HTTP/1.0", 8) || (kept && !strncasecmp(kept + strspn(kept, " "), "close", 5));
            c->left = size ? strtoull(size, NULL, 10) : 0;
            c->part = coding ? IN_SIZE : size ? IN_LENGTH : TO_THE_END;
            if (size && !coding && !c->left) { finish(c, now, NULL); return 0; }
            break;
        }
        case IN_LENGTH:
            if (used > c->left) used = (size_t)c->left;
            text(c, bytes, used, now);
            if (!(c->left -= used)) { finish(c, now, NULL); return 0; }
            break;
        case IN_SIZE:
            end = memchr(bytes, '\n', length);
            used = end ? (size_t)(end - bytes) + 1 : length;
            for (size_t i = 0; i < used; i++) {
                int digit = bytes[i] >= '0' && bytes[i] <= '9' ? bytes[i] - '0' : (bytes[i] | 32) >= 'a' && (bytes[i] | 32) <= 'f' ? (bytes[i] | 32) - 'a' + 10 : -1;
                if (digit < 0) break;
                c->left = c->left * 16 + (unsigned)digit;
            }
            if (end) c->part = c->left ? IN_CHUNK : IN_TRAILER;
            c->head_bytes = 0;
            break;
        case IN_CHUNK:
            if (used > c->left) used = (size_t)c->left;
            text(c, bytes, used, now);
            if (!(c->left -= used)) c->part = AFTER_CHUNK;
            break;
        case AFTER_CHUNK:
            end = memchr(bytes, '\n', length);
            used = end ? (size_t)(end - bytes) + 1 : length;
            if (end) c->part = IN_SIZE;
            break;
        case IN_TRAILER: /* lines until an empty one; head_bytes counts what the line holds */
            for (used = 0; used < length;) {
                char byte = bytes[used++];
                if (byte == '\n') {
                    if (!c->head_bytes) { finish(c, now, NULL); return 0; }
                    c->head_bytes = 0;
                } else if (byte != '\r') c->head_bytes++;
            }
            break;
        case TO_THE_END:
            text(c, bytes, length, now);
            break;
        }
        bytes += used, length -= used;
    }
    return 1;
}

static void lost(client *c, uint64_t now) {
    if (c->state != ASKED) { drop(c); return; }
    if (c->part == TO_THE_END) { c->closes = 1; finish(c, now, NULL); return; }
    if (c->part == IN_HEAD && !c->head_bytes && !c->fresh) { drop(c); dial(c); return; } /* kept alive, and closed as we asked: once more */
    finish(c, now, "closed before the end");
}

static void readable(client *c, uint64_t now) {
    static char bytes[1 << 18];
    size_t room = slow_ms ? (size_t)slow_bytes : sizeof bytes;
    for (;;) {
        int got = c->session ? tls_read(c->session, bytes, (int)room) : (int)recv(c->fd, bytes, room, 0);
        if (got <= 0) {
            int waits = c->session ? tls_error(c->session, got) == WANTS_READ : got < 0 && errno == EAGAIN;
            if (!waits) lost(c, now);
            return;
        }
        reads++;
        if (c->state != ASKED) { complain("bytes that nobody asked for", ""); failed++; drop(c); return; }
        if (!input(c, bytes, (size_t)got, now)) { c->fresh = 0; return; }
        if (!c->session) return; /* TLS keeps what it has read; a socket tells again */
        if (slow_ms) return;
    }
}

static void shake(client *c) {
    int result = tls_connect(c->session), error = result == 1 ? 0 : tls_error(c->session, result);
    if (result == 1) ask(c);
    else if (error == WANTS_READ || error == WANTS_WRITE) watch(c, EPOLL_CTL_MOD, error == WANTS_READ ? EPOLLIN : EPOLLOUT);
    else { over++, failed++; complain("TLS", "the handshake failed"); drop(c); }
}

static void connected(client *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) { over++, failed++; complain("connect", strerror(error)); drop(c); return; }
    if (!tls) { ask(c); return; }
    c->session = new_session(tls_context);
    set_fd(c->session, c->fd);
    c->state = SHAKING;
    shake(c);
}

static void options(int count, char **words) {
    static const struct option known[] = {{"port", 1, 0, 'p'}, {"stream", 0, 0, 's'}, {"tls", 0, 0, 't'}, {"connections", 1, 0, 'c'}, {"requests", 1, 0, 'n'},
        {"rate", 1, 0, 'r'}, {"ramp-ms", 1, 0, 'a'}, {"seconds", 1, 0, 'd'}, {"events", 1, 0, 'e'}, {"interval-us", 1, 0, 'i'}, {"without-ids", 0, 0, 'w'},
        {"first-stream", 1, 0, 'f'}, {"slow-ms", 1, 0, 'm'}, {"slow-bytes", 1, 0, 'b'}, {0, 0, 0, 0}};
    for (int option; (option = getopt_long(count, words, "", known, NULL)) != -1;) switch (option) {
        case 'p': port = atoi(optarg); break;
        case 's': streaming = 1; break;
        case 't': tls = 1; break;
        case 'c': connections = atoi(optarg); break;
        case 'n': requests = strtoull(optarg, NULL, 10); break;
        case 'r': rate = atof(optarg); break;
        case 'a': ramp_ms = atoi(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'e': events = atoi(optarg); break;
        case 'i': interval_us = atoi(optarg); break;
        case 'w': with_ids = 0; break;
        case 'f': next_stream = (unsigned)atoi(optarg); break;
        case 'm': slow_ms = atoi(optarg); break;
        case 'b': slow_bytes = atoi(optarg); break;
        default: exit(2);
    }
    if (!port || seconds <= 0 || seconds > 300 || connections < 1 || connections > 20000 || events < 1 || events >= (int)SPAN) {
        fprintf(stderr, "load: wants --port, --seconds up to 300, up to 20000 --connections and fewer than %u --events\n", SPAN);
        exit(2);
    }
}

int main(int count, char **words) {
    options(count, words);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL), sigaction(SIGUSR2, &action, NULL), sigaction(SIGTERM, &action, NULL), sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (tls) load_tls();
    clients = calloc((size_t)connections, sizeof *clients);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    static struct epoll_event ready[2048];
    uint64_t began_ns = now_ns(), now = began_ns, end = began_ns + (uint64_t)(seconds * 1e9), slot = 0, slow_next = began_ns;
    int started = rate > 0 ? connections : 0;
    while (now < end && !stopping && !(requests && over >= requests)) {
        uint64_t next = now + 100000000u;
        for (int batch = 0; started < connections; started++, batch++) { /* none at once: the answers must be read between */
            uint64_t due = began_ns + (uint64_t)ramp_ms * 1000000u * (uint64_t)started / (uint64_t)connections;
            if (due > now || batch == 64) { next = due > now ? due : now; break; }
            begin(&clients[started], ramp_ms ? due : now);
        }
        while (rate > 0 && !(requests && begun >= requests)) {
            uint64_t due = began_ns + (uint64_t)(1e9 / rate * (double)slot);
            if (due > now) { next = due < next ? due : next; break; }
            client *free_one = clients;
            while (free_one < clients + connections && free_one->state != RESTING && free_one->state != UNUSED) free_one++;
            if (free_one == clients + connections) break;
            begin(free_one, due);
            slot++;
        }
        if (slow_ms && now >= slow_next) {
            for (client *c = clients; c < clients + connections; c++) if (c->state == ASKED) readable(c, now);
            slow_next = now + (uint64_t)slow_ms * 1000000u;
        }
        if (slow_ms && slow_next < next) next = slow_next;
        if (next > end) next = end;
        uint64_t wait = next > now ? next - now : 0;
        struct timespec pause = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
        int found = epoll_pwait2(poll_fd, ready, 2048, &pause, NULL);
        for (int i = 0; i < found; i++) {
            client *c = &clients[ready[i].data.u32];
            now = now_ns();
            if (c->state == CONNECTING) connected(c);
            else if (c->state == SHAKING) shake(c);
            else if (c->state != UNUSED) readable(c, now);
        }
        if (span_begins) { span_begins = 0; spans = 1; memset(&gap, 0, sizeof gap); }
        if (span_ends) { span_ends = 0; spans = 2; }
        now = now_ns();
    }
    printf("{\"wall_s\":%.4f,\"done\":%lu,\"failed\":%lu,\"wrong\":%lu,\"unfinished\":%lu,\"open\":%d,\"events\":%lu,\"reads\":%lu,",
        (double)(now - began_ns) / 1e9, done, failed, wrong, begun - over, open_connections, told, reads);
    say("latency", &latency), say("first_byte", &first_byte), say("gap", &gap);
    printf("\"example\":\"%s\"}\n", example);
    return 0;
}
