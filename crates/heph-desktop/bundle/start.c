// The beginning of HEPH's AppImage: a program whose own file goes on with an image (squashfs) of everything that is installed.
//
// Shows the image as a folder and becomes `AppRun` of it. A second process stays as long as anything runs that this one
// began, then it takes the folder away. It shows the image through FUSE; where a system has none, or
// `--appimage-extract-and-run` (APPIMAGE_EXTRACT_AND_RUN) asks for it, it unpacks the image. `--appimage-extract` only unpacks it
// into `squashfs-root`, `--appimage-offset` says where it begins. These words and variables are those of AppImage, type 2.
//
// Linked without a shared library (`make`): whatever it is started on has what it needs. Reads no other file, and never asks a network.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <squashfuse/config.h>
#include <squashfuse/ll.h>

// This file, also after another one took its name.
static const char OWN[] = "/proc/self/exe";

static int no(const char *what) {
    fprintf(stderr, "HEPH: %s: %s\n", what, errno ? strerror(errno) : "damaged");
    return EXIT_FAILURE;
}

// squashfuse knows the library LZO, which is under the GPL: no image of ours is packed with it, and it is not linked.
int lzo1x_decompress_safe(const unsigned char *in, unsigned long length, unsigned char *out, unsigned long *room, void *work) {
    (void)in, (void)length, (void)out, (void)room, (void)work;
    return -1;
}

// Where the program ends and the image begins: behind the table of sections, which stands last. 0 where it cannot be read.
static size_t image_offset(void) {
    ElfW(Ehdr) head = {0};
    int own = open(OWN, O_RDONLY | O_CLOEXEC);
    ssize_t got = own < 0 ? -1 : read(own, &head, sizeof head);
    if (own >= 0) close(own);
    return got == (ssize_t)sizeof head ? head.e_shoff + (size_t)head.e_shentsize * head.e_shnum : 0;
}

static bool write_file(sqfs *image, sqfs_inode *inode, const char *path) {
    static char piece[1 << 20];
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, inode->base.mode & 0777);
    bool good = file >= 0;
    sqfs_off_t size;
    for (sqfs_off_t at = 0; good && at < (sqfs_off_t)inode->xtra.reg.file_size; at += size) {
        size = sizeof piece;
        good = sqfs_read_range(image, inode, at, &size, piece) == SQFS_OK && size > 0 && write(file, piece, size) == size;
    }
    return (file < 0 || close(file) == 0) && good;
}

static bool make_link(sqfs *image, sqfs_inode *inode, const char *path) {
    char target[PATH_MAX];
    size_t size = sizeof target;
    return sqfs_readlink(image, inode, target, &size) == SQFS_OK && symlink(target, path) == 0;
}

// Unpacks folders, files and links of the image below `folder`, which is there; anything else in it is an error.
static bool unpack(sqfs *image, const char *folder) {
    sqfs_traverse step;
    sqfs_err error = sqfs_traverse_open(&step, image, sqfs_inode_root(image));
    bool good = error == SQFS_OK;
    while (good && sqfs_traverse_next(&step, &error)) {
        if (step.dir_end) continue;
        char path[PATH_MAX];
        sqfs_inode inode;
        good = snprintf(path, sizeof path, "%s/%s", folder, step.path) < (int)sizeof path &&
               sqfs_inode_get(image, &inode, sqfs_dentry_inode(&step.entry)) == SQFS_OK;
        if (!good) break;
        mode_t mode = inode.base.mode;
        if (S_ISDIR(mode)) good = mkdir(path, 0755) == 0;
        else if (S_ISREG(mode)) good = write_file(image, &inode, path);
        else good = S_ISLNK(mode) && make_link(image, &inode, path);
    }
    sqfs_traverse_close(&step);
    return good && error == SQFS_OK;
}

static int removed(const char *path, const struct stat *about, int kind, struct FTW *at) {
    (void)about, (void)kind, (void)at;
    return remove(path);
}

// The image shown at `folder`; NULL where this system shows none.
static struct fuse_session *shown(sqfs_ll *image, const char *folder) {
    static const struct fuse_lowlevel_ops CALLS = {
        .getattr = sqfs_ll_op_getattr, .opendir = sqfs_ll_op_opendir, .releasedir = sqfs_ll_op_releasedir,
        .readdir = sqfs_ll_op_readdir, .lookup = sqfs_ll_op_lookup, .open = sqfs_ll_op_open, .release = sqfs_ll_op_release,
        .read = sqfs_ll_op_read, .readlink = sqfs_ll_op_readlink, .forget = sqfs_ll_op_forget,
    };
    char *words[] = {"heph", "-oro,nosuid,nodev,fsname=heph"};
    struct fuse_args arguments = FUSE_ARGS_INIT(2, words);
    struct fuse_session *session = fuse_session_new(&arguments, &CALLS, sizeof CALLS, image);
    if (session && fuse_session_mount(session, folder) != 0) {
        fuse_session_destroy(session);
        session = NULL;
    }
    fuse_opt_free_args(&arguments);
    return session;
}

// Answers for the image until nobody holds the other end of `users`; without a session there is only that to wait for.
static void serve(struct fuse_session *session, int users) {
    struct pollfd ends[] = {{.fd = users}, {.fd = session ? fuse_session_fd(session) : -1, .events = POLLIN}};
    struct fuse_buf asked = {0};
    while (poll(ends, 2, -1) >= 0 || errno == EINTR) {
        if (ends[0].revents) break;
        if (!ends[1].revents) continue;
        int got = fuse_session_receive_buf(session, &asked);
        if (got > 0) fuse_session_process_buf(session, &asked);
        else if (got != -EINTR && got != -EAGAIN) break;
    }
    free(asked.mem);
}

// The process that stays: has the image at `folder`, says so to `ready`, and takes it away when the last of `users` is gone.
static int keep(sqfs_ll *image, const char *folder, bool unpacked, int ready, int users) {
    // What ends the program in a terminal must not take the files from under it.
    setsid();
    for (const int *each = (const int[]){SIGHUP, SIGINT, SIGTERM, 0}; *each; each++) signal(*each, SIG_IGN);
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC), told = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    for (int each = 0; each < 3; each++) dup2(nothing, each);
    struct fuse_session *session = unpacked ? NULL : shown(image, folder);
    errno = 0;
    bool good = session || unpack(&image->fs, folder);
    if (!good) {
        dup2(told, STDERR_FILENO);
        no(folder);
    }
    close(told);
    if (good && write(ready, "", 1) == 1 && close(ready) == 0 && chdir("/") == 0) serve(session, users);
    if (session) fuse_session_unmount(session);
    nftw(folder, removed, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

// What the program finds about itself, as AppImage names it; then the program.
static int run(const char *folder, char **words) {
    char own[PATH_MAX] = "", here[PATH_MAX], program[PATH_MAX];
    if (readlink(OWN, own, sizeof own - 1) < 0 || snprintf(program, sizeof program, "%s/AppRun", folder) >= (int)sizeof program) return no(OWN);
    setenv("APPIMAGE", own, 1);
    setenv("APPDIR", folder, 1);
    setenv("ARGV0", words[0], 1);
    if (getcwd(here, sizeof here)) setenv("OWD", here, 1);
    words[0] = program;
    execv(program, words);
    return no(program);
}

int main(int count, char **words) {
    static const char PREFIX[] = "--appimage-";
    const char *wish = count > 1 && strncmp(words[1], PREFIX, sizeof PREFIX - 1) == 0 ? words[1] + sizeof PREFIX - 1 : NULL;
    size_t offset = image_offset();
    if (wish && strcmp(wish, "offset") == 0) return printf("%zu\n", offset) > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    sqfs_ll *image = sqfs_ll_open(OWN, offset);
    if (!image) return EXIT_FAILURE;
    if (wish && strcmp(wish, "extract") == 0)
        return mkdir("squashfs-root", 0755) == 0 && (errno = 0, unpack(&image->fs, "squashfs-root")) ? EXIT_SUCCESS : no("squashfs-root");
    bool unpacked = getenv("APPIMAGE_EXTRACT_AND_RUN") != NULL;
    if (wish) {
        if (strcmp(wish, "extract-and-run") != 0) return errno = EINVAL, no(words[1]);
        unpacked = true;
        words[1] = words[0];
        words++;
    }
    const char *place = getenv("TMPDIR");
    char folder[PATH_MAX];
    int ready[2], users[2];
    // By this name a program knows that it runs from an AppImage.
    if (snprintf(folder, sizeof folder, "%s/.mount_heph-XXXXXX", place && *place ? place : "/tmp") >= (int)sizeof folder) return no("TMPDIR");
    if (!mkdtemp(folder)) return no(folder);
    if (pipe2(ready, O_CLOEXEC) != 0 || pipe(users) != 0) return no("pipe");
    pid_t keeper = fork();
    if (keeper < 0) return no("fork");
    close(users[keeper == 0]);
    close(ready[keeper != 0]);
    if (keeper == 0) return keep(image, folder, unpacked, ready[1], users[0]);
    char said;
    // Everything that the program begins inherits its end of `users`, and nothing else of this.
    return read(ready[0], &said, 1) == 1 ? run(folder, words) : EXIT_FAILURE;
}
