/* A waiting rank sleeps instead of spinning: preloaded into the ranks of an emulated job (waiting.py builds it).
 *
 * Open MPI 4 calls sched_yield() in each idle turn of its progress loop where mpi_yield_when_idle is set. On cores that
 * many ranks share, that burns what the others need. Here the call sleeps until one of the process's event loops has
 * something to do, which Open MPI's TCP transport waits with too (opal_event_include epoll), and FLOWERS_WAITING_US
 * microseconds at the most, for what no event loop sees, such as other threads.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define MOST_LOOPS 32
#define MOST_WAKINGS 16

static int loops[MOST_LOOPS]; /* descriptors of event loops, plus 1; 0 where there is none */
static int loop_count;
static __thread int has_answered; /* an event since it last yielded: what it waits for may be there */

static void remember(int descriptor) {
  int place;
  if (descriptor < 0) return;
  place = __atomic_fetch_add(&loop_count, 1, __ATOMIC_SEQ_CST);
  if (place < MOST_LOOPS) __atomic_store_n(&loops[place], descriptor + 1, __ATOMIC_SEQ_CST);
}

int epoll_create(int size) {
  static int (*next)(int);
  int descriptor;
  if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "epoll_create");
  descriptor = next(size);
  remember(descriptor);
  return descriptor;
}

int epoll_create1(int flags) {
  static int (*next)(int);
  int descriptor;
  if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "epoll_create1");
  descriptor = next(flags);
  remember(descriptor);
  return descriptor;
}

int epoll_wait(int descriptor, struct epoll_event *events, int most, int timeout) {
  static int (*next)(int, struct epoll_event *, int, int);
  int found;
  if (!next) next = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
  found = next(descriptor, events, most, timeout);
  if (found > 0) has_answered = 1;
  return found;
}

int sched_yield(void) {
  static long most_us = -1;
  static __thread int wakings; /* in a row, without a sleep: of a loop that another thread has to answer */
  struct pollfd waited[MOST_LOOPS];
  struct timespec most;
  int known, place;
  if (has_answered) { /* Open MPI yields once more after it has read what came */
    has_answered = 0;
    return 0;
  }
  if (most_us < 0) {
    const char *given = getenv("FLOWERS_WAITING_US");
    long us = given ? atol(given) : 0;
    most_us = us > 0 && us < 1000000 ? us : 1000;
  }
  most.tv_sec = 0;
  most.tv_nsec = most_us * 1000;
  known = __atomic_load_n(&loop_count, __ATOMIC_SEQ_CST);
  if (known > MOST_LOOPS) known = MOST_LOOPS;
  for (place = 0; place < known; place++) {
    waited[place].fd = __atomic_load_n(&loops[place], __ATOMIC_SEQ_CST) - 1; /* poll leaves out negative ones */
    waited[place].events = POLLIN;
    waited[place].revents = 0;
  }
  if (ppoll(waited, known, &most, NULL) <= 0) {
    wakings = 0;
  } else {
    for (place = 0; place < known; place++) /* closed, and its number perhaps another file's by now: forget it */
      if (waited[place].revents & POLLNVAL) __atomic_store_n(&loops[place], 0, __ATOMIC_SEQ_CST);
    if (++wakings >= MOST_WAKINGS) {
      wakings = 0;
      most.tv_nsec = most_us < 100 ? most_us * 1000 : 100000;
      nanosleep(&most, NULL);
    }
  }
  return 0;
}
