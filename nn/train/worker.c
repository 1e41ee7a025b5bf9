/* A thread that fills the next batch while a step runs. What it is asked for is handed over under a
 * lock, and a feed is its own until the thread has ended: nothing else is shared. */
#include "nn/train/train.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct nn_worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    nn_feed *feed;
    nn_batch *batch; /* to be filled; NULL: nothing to do */
    int64_t step;
    int result; /* of the latest */
    bool ends;
};

static void *work(void *data)
{
    nn_worker *w = data;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->batch && !w->ends) pthread_cond_wait(&w->changed, &w->lock);
        if (!w->batch) break;
        pthread_mutex_unlock(&w->lock);
        int result = nn_batch_fill(w->feed, w->batch, w->step);
        pthread_mutex_lock(&w->lock);
        w->result = result;
        w->batch = NULL;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

nn_worker *nn_worker_new(nn_feed *feed)
{
    nn_worker *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->feed = feed;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    /* Signals are for the caller's threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed) return w;
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
    return NULL;
}

void nn_worker_free(nn_worker *worker)
{
    if (!worker) return;
    pthread_mutex_lock(&worker->lock);
    worker->ends = true;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
    pthread_join(worker->thread, NULL);
    pthread_cond_destroy(&worker->changed);
    pthread_mutex_destroy(&worker->lock);
    free(worker);
}

void nn_worker_ask(nn_worker *worker, nn_batch *batch, int64_t step)
{
    pthread_mutex_lock(&worker->lock);
    worker->batch = batch;
    worker->step = step;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
}

int nn_worker_wait(nn_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    while (worker->batch) pthread_cond_wait(&worker->changed, &worker->lock);
    int result = worker->result;
    pthread_mutex_unlock(&worker->lock);
    return result;
}
