/* A make-believe vLLM for load: several replicas, one a port, in one thread.
 *
 *     engine PORT REPLICAS
 *
 * Replica k listens on PORT + k, its control on PORT - 1 (GET /replicas, GET /K/serving|loading|vanish).
 * A prompt says what is wanted of it: @@n=200,i=20000,s=7,t=1@@ is 200 tokens, one every 20000 us, of the stream
 * numbered 7; t=0 gives no token ids, whoever asks. Token j of stream s has the id BASE + s * SPAN + j, its text
 * is " t" and that number: whoever reads it can tell a stream that is exact from any other.
 * The ids of a prompt carry the same wishes, so that a list of ids is continued on any replica, as in vLLM.
 * A replica that vanishes neither reads, writes, accepts nor closes: no FIN, no RST, and SYNs find no answer.
 */
#define _GNU_SOURCE
#include <errno.h>
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

enum { MOST_REPLICAS = 32, MOST_FDS = 65536, MOST_BODY = 1 << 20, PROMPT_IDS = 5, BACKLOG = 4096 };
enum { MOST_WAITING = 16 * 1024 }; /* bytes a reader may be behind before its stream waits for it */
#define BASE 100000000u
#define SPAN 2048u
#define CREATED 1790000000u

typedef enum { SERVING, LOADING, VANISHED } condition;
typedef struct { int listener; condition condition; unsigned streams, requests, aborted; } replica;

typedef struct {
    int fd, of, listens, blocked, place; /* place in the heap of what is due; -1: nothing is */
    char *in; size_t in_bytes, in_room;
    char *out; size_t out_bytes, out_at, out_room;
    int streaming, chat, wants_ids, wants_usage, role_told;
    unsigned stream, first, next, last, interval_us;
    uint64_t due_ns;
    char event[640]; size_t event_bytes, text_at, ids_at; /* one token's chunk, but for its digits */
} connection;

static replica replicas[MOST_REPLICAS];
static int count, port, poll_fd;
static connection *connections[MOST_FDS];
static connection **heap; static int heap_size, heap_room;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void *grown(void *block, size_t bytes) {
    if (!(block = realloc(block, bytes))) { perror("engine: memory"); exit(1); }
    return block;
}

/* -- what is due, soonest first */

static void settle(int place, connection *c) { heap[place] = c; c->place = place; }

static void rise(int place) {
    connection *c = heap[place];
    for (int above; place > 0 && heap[above = (place - 1) / 2]->due_ns > c->due_ns; place = above) settle(place, heap[above]);
    settle(place, c);
}

static void sink(int place) {
    connection *c = heap[place];
    for (int below; (below = 2 * place + 1) < heap_size; place = below) {
        if (below + 1 < heap_size && heap[below + 1]->due_ns < heap[below]->due_ns) below++;
        if (heap[below]->due_ns >= c->due_ns) break;
        settle(place, heap[below]);
    }
    settle(place, c);
}

static void schedule(connection *c) {
    if (heap_size == heap_room) heap = grown(heap, (size_t)(heap_room = heap_room ? 2 * heap_room : 1024) * sizeof *heap);
    settle(heap_size++, c);
    rise(heap_size - 1);
}

static void unschedule(connection *c) {
    int place = c->place;
    if (place < 0) return;
    connection *moved = heap[--heap_size];
    c->place = -1;
    if (moved == c) return;
    settle(place, moved);
    rise(place);
    sink(moved->place);
}

/* -- connections */

static void watch(connection *c, int how, uint32_t events) {
    struct epoll_event wanted = {.events = events, .data.fd = c->fd};
    epoll_ctl(poll_fd, how, c->fd, &wanted);
}

static connection *opened(int fd, int of, int listens) {
    if (fd >= MOST_FDS) { close(fd); return NULL; }
    connection *c = calloc(1, sizeof *c);
    if (!c) { perror("engine: memory"); exit(1); }
    c->fd = fd, c->of = of, c->listens = listens, c->place = -1;
    connections[fd] = c;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    return c;
}

static void closed(connection *c) {
    if (c->streaming) replicas[c->of].streams--, replicas[c->of].aborted++;
    unschedule(c);
    connections[c->fd] = NULL;
    close(c->fd);
    free(c->in), free(c->out), free(c);
}

/* Returns 0 where the connection is gone. */
static int put(connection *c, const char *bytes, size_t length) {
    size_t gone = 0;
    if (!c->out_bytes) {
        ssize_t sent = send(c->fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) { closed(c); return 0; }
        if (sent > 0) gone = (size_t)sent;
        if (gone == length) return 1;
    }
    size_t left = length - gone, end = c->out_at + c->out_bytes;
    if (end + left > c->out_room) c->out = grown(c->out, c->out_room = 2 * (end + left));
    memcpy(c->out + end, bytes + gone, left);
    c->out_bytes += left;
    if (!c->blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT), c->blocked = 1;
    return 1;
}

static int flush(connection *c) {
    ssize_t sent = send(c->fd, c->out + c->out_at, c->out_bytes, MSG_NOSIGNAL);
    if (sent < 0) { if (errno == EAGAIN) return 1; closed(c); return 0; }
    c->out_at += (size_t)sent, c->out_bytes -= (size_t)sent;
    if (!c->out_bytes) { c->out_at = 0, c->blocked = 0; watch(c, EPOLL_CTL_MOD, EPOLLIN); }
    return 1;
}

static int reply(connection *c, const char *status, const char *type, const char *body) {
    char whole[8192];
    int length = snprintf(whole, sizeof whole, "HTTP/1.1 %s\r\ndate: Sun, 22 Nov 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
        "content-length: %zu\r\ncontent-type: %s\r\n\r\n%s", status, strlen(body), type, body);
    return put(c, whole, (size_t)length);
}

/* -- streams */

static void digits(char *at, unsigned number) { for (int i = 8; i >= 0; i--, number /= 10) at[i] = (char)('0' + number % 10); }

static size_t chunked(char *to, const char *data, size_t length) {
    size_t head = (size_t)sprintf(to, "%zx\r\n", length);
    memcpy(to + head, data, length);
    memcpy(to + head + length, "\r\n", 2);
    return head + length + 2;
}

static size_t token_event(const connection *c, char *to, const char *finish) {
    char head[200], ids[32];
    snprintf(head, sizeof head, "{\"id\":\"%s-%016x\",\"object\":\"%s\",\"created\":%u,\"model\":\"bench\",\"choices\":[{\"index\":0",
        c->chat ? "chatcmpl" : "cmpl", c->stream, c->chat ? "chat.completion.chunk" : "text_completion", CREATED + (unsigned)c->of);
    snprintf(ids, sizeof ids, c->wants_ids ? "[%09u]" : "null", 0);
    if (c->chat)
        return (size_t)sprintf(to, "data: %s,\"delta\":{\"content\":\" t%09u\"},\"logprobs\":null,\"finish_reason\":%s,\"token_ids\":%s}]}\n\n", head, 0, finish, ids);
    return (size_t)sprintf(to, "data: %s,\"text\":\" t%09u\",\"logprobs\":null,\"finish_reason\":%s,\"stop_reason\":null,"
        "\"prompt_token_ids\":null,\"token_ids\":%s}]}\n\n", head, 0, finish, ids);
}

static void number_event(const connection *c, char *event, unsigned token) {
    char *text = strstr(event, "\" t000000000\""), *ids = c->wants_ids ? strstr(event, "_ids\":[000000000]") : NULL;
    if (text) digits(text + 3, token);
    if (ids) digits(ids + 7, token);
}

static void prompt_ids(const connection *c, char *to) {
    if (!c->wants_ids) { strcpy(to, "null"); return; }
    sprintf(to, "[1,%u,%u,%u,%u]", c->interval_us, c->stream, c->last, 1u);
}

/* The first thing of a stream: in chat the role, else the head alone. */
static int begin(connection *c) {
    char whole[2048], event[900], body[800], ids[80];
    size_t length = (size_t)sprintf(whole, "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
        "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    if (c->chat) {
        prompt_ids(c, ids);
        int size = sprintf(body, "data: {\"id\":\"chatcmpl-%016x\",\"object\":\"chat.completion.chunk\",\"created\":%u,\"model\":\"bench\","
            "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],"
            "\"prompt_token_ids\":%s}\n\n", c->stream, CREATED + (unsigned)c->of, ids);
        length += chunked(whole + length, body, (size_t)size);
    }
    size_t size = token_event(c, event, "null");
    c->event_bytes = chunked(c->event, event, size);
    c->event[c->event_bytes] = 0;
    char *at = strstr(c->event, "\" t000000000\"");
    c->text_at = (size_t)(at - c->event) + 3;
    c->ids_at = c->wants_ids ? (size_t)(strstr(c->event, "_ids\":[000000000]") - c->event) + 7 : 0;
    return put(c, whole, length);
}

static int finish(connection *c) {
    char whole[2600], event[1200];
    size_t size = token_event(c, event, "\"length\"");
    event[size] = 0;
    number_event(c, event, c->next);
    size_t length = chunked(whole, event, size);
    if (c->wants_usage) {
        unsigned told = c->last - c->first;
        size = (size_t)sprintf(event, "data: {\"id\":\"%s-%016x\",\"object\":\"%s\",\"created\":%u,\"model\":\"bench\",\"choices\":[],"
            "\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u,\"completion_tokens\":%u}}\n\n", c->chat ? "chatcmpl" : "cmpl", c->stream,
            c->chat ? "chat.completion.chunk" : "text_completion", CREATED + (unsigned)c->of, PROMPT_IDS + c->first,
            PROMPT_IDS + c->last, told);
        length += chunked(whole + length, event, size);
    }
    length += (size_t)sprintf(whole + length, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    c->streaming = 0;
    replicas[c->of].streams--;
    return put(c, whole, length);
}

/* The completions API tells the prompt's ids with its first token. */
static int first_of_completion(connection *c) {
    char whole[1200], event[1000], ids[80], told[1000];
    size_t size = token_event(c, event, "null");
    event[size] = 0;
    number_event(c, event, c->next);
    prompt_ids(c, ids);
    char *at = strstr(event, "\"prompt_token_ids\":null") + strlen("\"prompt_token_ids\":");
    size = (size_t)sprintf(told, "%.*s%s%s", (int)(at - event), event, ids, at + 4);
    return put(c, whole, chunked(whole, told, size));
}

static void requests_of(connection *c);

static void tick(connection *c, uint64_t now) {
    c->due_ns += (uint64_t)c->interval_us * 1000u;
    if (c->due_ns < now) c->due_ns = now;
    if (c->out_bytes > MOST_WAITING) { c->due_ns = now + 10000000u; schedule(c); return; }
    if (!c->role_told) {
        c->role_told = 1;
        if (begin(c)) schedule(c);
        return;
    }
    unsigned token = c->next;
    if (token + 1 >= BASE + c->stream * SPAN + c->last) { if (finish(c)) requests_of(c); return; }
    if (!c->chat && token == BASE + c->stream * SPAN + c->first && c->wants_ids) {
        if (!first_of_completion(c)) return;
    } else {
        digits(c->event + c->text_at, token);
        if (c->ids_at) digits(c->event + c->ids_at, token);
        if (!put(c, c->event, c->event_bytes)) return;
    }
    c->next++;
    schedule(c);
}

/* -- requests */

static const char *value(const char *body, const char *key) {
    const char *at = strstr(body, key);
    if (!at) return NULL;
    for (at += strlen(key); *at == ' ' || *at == ':'; at++) {}
    return at;
}

static int truth(const char *body, const char *key) { const char *at = value(body, key); return at && !strncmp(at, "true", 4); }

static unsigned wish(const char *marker, char name, unsigned otherwise) {
    for (const char *at = marker; at && *at && *at != '@'; at++)
        if (at[0] == name && at[1] == '=' && (at == marker || at[-1] == ',')) return (unsigned)strtoul(at + 2, NULL, 10);
    return otherwise;
}

static const char JSON_ANSWER[] = "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1790000000,\"model\":\"bench\","
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"A fleet of cheap machines answers as one that never sleeps; whoever asks it does not notice which of them has gone.\","
    "\"tool_calls\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":12,\"total_tokens\":36,\"completion_tokens\":24}}";

static void generate(connection *c, const char *body, int chat) {
    unsigned given[PROMPT_IDS] = {0}, seen = 0;
    const char *list = chat ? NULL : value(body, "\"prompt\""), *most = value(body, "\"max_tokens\""), *marker = strstr(body, "@@");
    if (!most) most = value(body, "\"max_completion_tokens\"");
    unsigned limit = most && *most >= '0' && *most <= '9' ? (unsigned)strtoul(most, NULL, 10) : SPAN - 1, ids = 1;
    c->chat = chat, c->interval_us = 0, c->stream = 0, c->first = 0, c->last = 24, c->role_told = 0;
    if (list && *list == '[') {
        for (char *at = (char *)list + 1; *at && *at != ']'; seen++) {
            unsigned number = (unsigned)strtoul(at, &at, 10);
            if (seen < PROMPT_IDS) given[seen] = number;
            while (*at == ',' || *at == ' ') at++;
        }
        if (seen >= PROMPT_IDS) c->interval_us = given[1], c->stream = given[2], c->last = given[3], c->first = seen - PROMPT_IDS;
    } else if (marker) {
        c->last = wish(marker + 2, 'n', 200), c->interval_us = wish(marker + 2, 'i', 0), c->stream = wish(marker + 2, 's', 0);
        ids = wish(marker + 2, 't', 1);
    }
    if (c->first + limit < c->last) c->last = c->first + limit;
    if (c->last <= c->first) { reply(c, "400 Bad Request", "application/json", "{\"error\":{\"message\":\"nothing is left to generate\",\"type\":\"BadRequestError\",\"param\":null,\"code\":400}}"); return; }
    if (!truth(body, "\"stream\"")) { reply(c, "200 OK", "application/json", JSON_ANSWER); return; }
    c->wants_ids = ids && truth(body, "\"return_token_ids\"");
    c->wants_usage = truth(body, "\"include_usage\"");
    c->next = BASE + c->stream * SPAN + c->first;
    c->streaming = 1;
    replicas[c->of].streams++;
    c->due_ns = now_ns();
    tick(c, c->due_ns);
}

static void detokenize(connection *c, const char *body) {
    const char *list = value(body, "\"tokens\"");
    if (!list || *list != '[') { reply(c, "400 Bad Request", "application/json", "{\"error\":{\"message\":\"tokens is missing\",\"type\":\"BadRequestError\",\"param\":null,\"code\":400}}"); return; }
    size_t room = 256 + strlen(list) * 4, length = (size_t)0;
    char *text = grown(NULL, room), *whole;
    unsigned seen = 0;
    length += (size_t)sprintf(text, "{\"prompt\":\"<|user|>");
    for (char *at = (char *)list + 1; *at && *at != ']'; seen++) {
        unsigned number = (unsigned)strtoul(at, &at, 10);
        if (seen >= PROMPT_IDS) length += (size_t)sprintf(text + length, " t%09u", number);
        while (*at == ',' || *at == ' ') at++;
    }
    length += (size_t)sprintf(text + length, "\"}");
    int size = asprintf(&whole, "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", length, text);
    if (size > 0) { put(c, whole, (size_t)size); free(whole); }
    free(text);
}

static void get(connection *c, const char *path) {
    const replica *r = &replicas[c->of];
    char body[1024];
    if (!strcmp(path, "/health") || !strcmp(path, "/ping") || !strcmp(path, "/health_generate") || !strcmp(path, "/"))
        reply(c, r->condition == LOADING ? "503 Service Unavailable" : "200 OK", "application/json", "");
    else if (!strcmp(path, "/v1/models"))
        reply(c, "200 OK", "application/json", "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1790000000,\"owned_by\":\"vllm\",\"root\":\"bench\",\"parent\":null,\"max_model_len\":32768}]}");
    else if (!strcmp(path, "/metrics")) {
        snprintf(body, sizeof body, "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine=\"0\",model_name=\"bench\"} %u\n"
            "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{engine=\"0\",model_name=\"bench\"} 0\n"
            "# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{engine=\"0\",model_name=\"bench\"} 0.1\n", r->streams);
        reply(c, "200 OK", "text/plain; version=0.0.4", body);
    } else if (!strcmp(path, "/version")) reply(c, "200 OK", "application/json", "{\"version\":\"0.32.0\"}");
    else if (!strcmp(path, "/get_model_info") || !strcmp(path, "/model_info"))
        reply(c, "200 OK", "application/json", "{\"model_path\":\"bench\",\"tokenizer_path\":\"bench\",\"is_generation\":true,\"served_model_name\":\"bench\"}");
    else if (!strcmp(path, "/get_server_info") || !strcmp(path, "/server_info"))
        reply(c, "200 OK", "application/json", "{\"model_path\":\"bench\",\"served_model_name\":\"bench\",\"tp_size\":1,\"dp_size\":1,\"version\":\"0.32.0\"}");
    else reply(c, "404 Not Found", "application/json", "{\"detail\":\"Not Found\"}");
}

/* -- control */

static void vanish(replica *r) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    getsockname(r->listener, (struct sockaddr *)&address, &size);
    r->condition = VANISHED;
    for (int fd = 0; fd < MOST_FDS; fd++) {
        connection *c = connections[fd];
        if (!c || c->of < 0 || &replicas[c->of] != r) continue;
        epoll_ctl(poll_fd, EPOLL_CTL_DEL, fd, NULL);
        unschedule(c);
    }
    listen(r->listener, 0); /* with its queue full, the kernel answers no SYN either */
    for (int i = 0; i < 3; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        connect(fd, (struct sockaddr *)&address, sizeof address);
    }
}

static void control(connection *c, const char *path) {
    char body[MOST_REPLICAS * 96 + 64], word[16];
    int which;
    if (sscanf(path, "/%d/%15s", &which, word) == 2 && which >= 0 && which < count) {
        replica *r = &replicas[which];
        if (!strcmp(word, "vanish")) vanish(r);
        else if (!strcmp(word, "loading")) r->condition = LOADING;
        else if (!strcmp(word, "serving")) r->condition = SERVING;
        else { reply(c, "404 Not Found", "text/plain", "serving, loading or vanish\n"); return; }
    } else if (strcmp(path, "/replicas")) { reply(c, "404 Not Found", "text/plain", "/replicas or /K/serving|loading|vanish\n"); return; }
    size_t length = (size_t)sprintf(body, "[");
    for (int i = 0; i < count; i++)
        length += (size_t)sprintf(body + length, "%s{\"streams\":%u,\"requests\":%u,\"aborted\":%u}", i ? "," : "", replicas[i].streams, replicas[i].requests, replicas[i].aborted);
    sprintf(body + length, "]");
    reply(c, "200 OK", "application/json", body);
}

/* -- reading */

static const char *header(const char *head, const char *name) {
    for (const char *line = strstr(head, "\r\n"); line && line[2]; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, strlen(name))) return line + 2 + strlen(name);
    return NULL;
}

/* The length of a body in chunks, which is put together where it stands; -1: not all of it is there. */
static long unchunk(char *body, size_t bytes, size_t *whole) {
    size_t at = 0, length = 0;
    for (;;) {
        char *line = memmem(body + at, bytes - at, "\r\n", 2);
        if (!line) return -1;
        size_t size = strtoul(body + at, NULL, 16), data = (size_t)(line - body) + 2;
        if (data + size + 2 > bytes) return -1;
        if (whole) memmove(body + length, body + data, size);
        length += size;
        at = data + size + 2;
        if (!size) { if (whole) *whole = at; return (long)length; }
    }
}

static void requests_of(connection *c) {
    int fd = c->fd;
    while (connections[fd] == c && !c->streaming && c->in_bytes) {
        c->in[c->in_bytes] = 0;
        char *end = strstr(c->in, "\r\n\r\n"), path[256] = "", method[16] = "";
        if (!end) return;
        size_t head = (size_t)(end - c->in) + 4, taken = head, length = 0;
        end[2] = 0;
        const char *sized = header(c->in, "content-length:"), *coding = header(c->in, "transfer-encoding:");
        int in_chunks = coding && strcasestr(coding, "chunked");
        sscanf(c->in, "%15s %255s", method, path);
        end[2] = '\r';
        if (in_chunks) {
            if (unchunk(c->in + head, c->in_bytes - head, NULL) < 0) return;
            length = (size_t)unchunk(c->in + head, c->in_bytes - head, &taken);
            taken += head;
        } else if (sized) {
            length = strtoul(sized, NULL, 10);
            if (length > MOST_BODY) { closed(c); return; }
            if (c->in_bytes < head + length) return;
            taken = head + length;
        }
        char *body = grown(NULL, length + 1), *query = strchr(path, '?');
        memcpy(body, c->in + head, length);
        body[length] = 0;
        if (query) *query = 0;
        c->in_bytes -= taken;
        memmove(c->in, c->in + taken, c->in_bytes);
        if (c->of < 0) control(c, path);
        else if (strcmp(method, "POST")) get(c, path);
        else if (replicas[c->of].condition == LOADING) reply(c, "503 Service Unavailable", "application/json", "{\"error\":{\"message\":\"loading\",\"type\":\"ServiceUnavailable\",\"param\":null,\"code\":503}}");
        else {
            replicas[c->of].requests++;
            if (!strcmp(path, "/v1/chat/completions")) generate(c, body, 1);
            else if (!strcmp(path, "/v1/completions")) generate(c, body, 0);
            else if (!strcmp(path, "/detokenize")) detokenize(c, body);
            else reply(c, "404 Not Found", "application/json", "{\"detail\":\"Not Found\"}");
        }
        free(body);
    }
}

static void readable(connection *c) {
    if (c->in_room - c->in_bytes < 4096) {
        if (c->in_bytes > MOST_BODY) { closed(c); return; }
        c->in = grown(c->in, c->in_room = c->in_room ? 2 * c->in_room : 8192);
    }
    ssize_t got = recv(c->fd, c->in + c->in_bytes, c->in_room - c->in_bytes - 1, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) { closed(c); return; }
    if (got > 0) c->in_bytes += (size_t)got, requests_of(c);
}

static int listener(int at) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)at), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, BACKLOG)) {
        fprintf(stderr, "engine: port %d: %s\n", at, strerror(errno));
        exit(1);
    }
    return fd;
}

static void accept_all(connection *c) {
    for (int fd; (fd = accept4(c->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) opened(fd, c->of, 0);
}

int main(int arguments, char **words) {
    if (arguments != 3) { fprintf(stderr, "usage: engine PORT REPLICAS\n"); return 2; }
    port = atoi(words[1]), count = atoi(words[2]);
    if (port < 2 || count < 1 || count > MOST_REPLICAS) { fprintf(stderr, "engine: a port above 1 and 1 to %d replicas\n", MOST_REPLICAS); return 2; }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < MOST_FDS ? files.rlim_max : MOST_FDS;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    opened(listener(port - 1), -1, 1);
    for (int i = 0; i < count; i++) opened(replicas[i].listener = listener(port + i), i, 1);
    static struct epoll_event events[1024];
    for (;;) {
        uint64_t now = now_ns(), wait = heap_size ? (heap[0]->due_ns > now ? heap[0]->due_ns - now : 0) : 1000000000u;
        struct timespec pause = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
        int ready = epoll_pwait2(poll_fd, events, 1024, &pause, NULL);
        for (int i = 0; i < ready; i++) {
            connection *c = connections[events[i].data.fd];
            if (!c || (c->of >= 0 && replicas[c->of].condition == VANISHED)) continue;
            if (c->listens) { accept_all(c); continue; }
            if (events[i].events & EPOLLOUT && c->out_bytes && !flush(c)) continue;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
        for (now = now_ns(); heap_size && heap[0]->due_ns <= now;) {
            connection *c = heap[0];
            unschedule(c);
            tick(c, now);
        }
    }
}
