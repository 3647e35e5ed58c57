/* The device: queues of work, done when they must be; and what tests may ask of it (fake_cuda_*). */
#define _GNU_SOURCE
#include "fake_cuda.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct context contexts[MAX_DEVICES];
struct block *blocks;
struct stream *streams;
struct event *events;
struct graph *graphs;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static char violations[4096];
static long violated;
static unsigned int dice; /* 0: everything as late as can be */

void lock(void) { pthread_mutex_lock(&mutex); }
void unlock(void) { pthread_mutex_unlock(&mutex); }

long setting(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value ? strtol(value, NULL, 0) : otherwise;
}

void violation(const char *text) {
    size_t used = strlen(violations);
    violated++;
    snprintf(violations + used, sizeof violations - used, "%s\n", text);
}

struct block *block_of(const void *address, size_t bytes, int pinned) {
    const char *start = address;
    for (struct block *b = blocks; b; b = b->next)
        if (b->pinned == pinned && start >= b->data && start + bytes <= b->data + b->bytes)
            return b;
    return NULL;
}

/* --- work */

void append(struct queue *queue, const struct work *work) {
    struct work *copy = malloc(sizeof *copy);
    *copy = *work;
    copy->next = NULL;
    if (queue->tail) queue->tail->next = copy; else queue->head = copy;
    queue->tail = copy;
}

static void copy_now(struct stream *stream, struct work *w) {
    /* one side is on the device; the other is pinned, staged, or a caller that waits */
    if (block_of(w->to, w->bytes, 0) || block_of(w->from, w->bytes, 0))
        memcpy(w->to, w->staged ? w->staged : w->from, w->bytes);
    else {
        violation("a copy ran after its device memory was freed");
        stream->context->broken = ILLEGAL_ADDRESS;
    }
}

static void call_now(struct work *w) {
    unlock(); /* it may be Python, and wait for a thread that waits for us */
    w->function(w->argument);
    lock();
}

static void do_now(struct stream *stream, struct work *w) {
    if (w->kind == COPY) copy_now(stream, w);
    else if (w->kind == CALL) call_now(w);
    else if (w->kind == RECORD) { if (w->event->done < w->turn) w->event->done = w->turn; }
    else if (w->kind == LAUNCH)
        for (struct work *inner = w->graph->queue.head; inner; inner = inner->next)
            do_now(stream, inner);
}

/* Do the first thing in a stream; 0 if there is none, or it waits for another stream. */
static int step(struct stream *stream) {
    struct work *w = stream->queue.head;
    if (!w || stream->busy) return 0;
    if (w->kind == WAIT && w->event->done < w->turn) return 0;
    stream->queue.head = w->next;
    if (!w->next) stream->queue.tail = NULL;
    stream->busy = 1;
    do_now(stream, w);
    stream->busy = 0;
    free(w->staged);
    free(w);
    pthread_cond_broadcast(&changed);
    return 1;
}

static void until(struct stream *stream, struct event *event, long turn) {
    while (event ? event->done < turn : stream->queue.head || stream->busy) {
        struct work *w = stream->queue.head;
        if (stream->busy) pthread_cond_wait(&changed, &mutex);
        else if (!w) return;
        else if (w->kind == WAIT && w->event->done < w->turn) until(w->source, w->event, w->turn);
        else step(stream);
    }
}

void finish(struct stream *stream) { until(stream, NULL, 0); }

void finish_all(struct context *context) {
    for (struct stream *s = streams; s; s = s->next)
        if (s->live && s->context == context) finish(s);
}

CUresult give(struct stream *stream, struct work work) {
    if (stream->capture) {
        append(&stream->capture->queue, &work);
        return SUCCESS;
    }
    append(&stream->queue, &work);
    for (struct stream *s = streams; s && dice; s = s->next)
        for (int steps = rand_r(&dice) % 8 - 4; steps > 0; steps--) step(s); /* mostly none */
    return stream->context->broken;
}

/* --- contexts */

void destroy_context(struct context *context) {
    int left = 0;
    finish_all(context);
    for (struct block **at = &blocks; *at;) {
        struct block *b = *at;
        if (b->context != context) { at = &b->next; continue; }
        *at = b->next;
        left++;
        free(b->data);
        free(b);
    }
    for (struct stream *s = streams; s; s = s->next)
        if (s->context == context && s->live) left++, s->live = 0;
    for (struct event *e = events; e; e = e->next)
        if (e->context == context && e->live) left++, e->live = 0;
    for (struct graph *g = graphs; g; g = g->next)
        if (g->context == context && g->live) left++, g->live = 0;
    if (left && !context->broken) violation("a context ended with something alive in it");
    context->used = 0;
    context->broken = SUCCESS;
}

/* --- for tests */

static struct { char routine[64]; long turns; CUresult code; } failures[8];
static int holding;

/* Let the k-th call of a routine from here on fail, once; k = 0: every one from here on. */
void fake_cuda_fail(const char *routine, long k, CUresult code) {
    lock();
    for (int i = 0; i < 8; i++)
        if (!*failures[i].routine) {
            snprintf(failures[i].routine, sizeof failures[i].routine, "%s", routine);
            failures[i].turns = k;
            failures[i].code = code;
            break;
        }
    unlock();
}

CUresult injected(const char *routine) {
    for (int i = 0; i < 8; i++) {
        size_t length = strlen(failures[i].routine); /* without the version that a symbol ends in */
        if (!length || strncmp(failures[i].routine, routine, length)) continue;
        if (routine[length] && routine[length] != '_') continue;
        if (!failures[i].turns) return failures[i].code;
        if (--failures[i].turns) continue;
        *failures[i].routine = 0;
        return failures[i].code;
    }
    return SUCCESS;
}

/* Let cuStreamSynchronize block until fake_cuda_let_go, or two seconds have passed. */
void fake_cuda_hold(void) { lock(); holding = 1; unlock(); }
void fake_cuda_let_go(void) { lock(); holding = 0; pthread_cond_broadcast(&changed); unlock(); }

int held(void) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 2;
    while (holding)
        if (pthread_cond_timedwait(&changed, &mutex, &end)) {
            violation("a synchronise kept every other thread from running");
            return holding = 0;
        }
    return 1;
}

/* Put a function into a stream, as a kernel would be: it runs in the stream's turn, or becomes part
 * of the graph that is being captured. It gets `argument`; device pointers can be read. */
CUresult fake_cuda_call(struct stream *stream, void (*function)(void *), void *argument) {
    lock();
    CUresult code =
        give(stream, (struct work){.kind = CALL, .function = function, .argument = argument});
    unlock();
    return code;
}

/* Let streams advance at random from here on; seed 0: again as late as can be. */
void fake_cuda_shuffle(unsigned int seed) { lock(); dice = seed; unlock(); }

/* All contexts are broken from here on, as after a kernel that crashed. */
void fake_cuda_crash(CUresult code) {
    lock();
    for (int i = 0; i < MAX_DEVICES; i++) contexts[i].broken = contexts[i].retained ? code : SUCCESS;
    unlock();
}

/* How many are alive: contexts (times retained), memory, bytes, pinned, streams, events, graphs;
 * pending (work not done), violations. */
long fake_cuda_count(const char *what) {
    long count = 0;
    lock();
    if (!strcmp(what, "contexts"))
        for (int i = 0; i < MAX_DEVICES; i++) count += contexts[i].retained;
    else if (!strcmp(what, "memory") || !strcmp(what, "pinned"))
        for (struct block *b = blocks; b; b = b->next) count += b->pinned == (*what == 'p');
    else if (!strcmp(what, "bytes"))
        for (int i = 0; i < MAX_DEVICES; i++) count += (long)contexts[i].used;
    else if (!strcmp(what, "streams"))
        for (struct stream *s = streams; s; s = s->next) count += s->live;
    else if (!strcmp(what, "events"))
        for (struct event *e = events; e; e = e->next) count += e->live;
    else if (!strcmp(what, "graphs"))
        for (struct graph *g = graphs; g; g = g->next) count += g->live;
    else if (!strcmp(what, "pending"))
        for (struct stream *s = streams; s; s = s->next)
            for (struct work *w = s->queue.head; w; w = w->next) count++;
    else if (!strcmp(what, "violations")) count = violated;
    else count = -1;
    unlock();
    return count;
}

const char *fake_cuda_violations(void) { return violations; }
