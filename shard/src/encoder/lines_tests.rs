use std::sync::Arc;

use super::*;

const ANY: usize = usize::MAX;

fn line(client: u64) -> Line {
    Line { client, urgent: true }
}

fn one<T>(lines: &Lines<T>) -> (Line, T) {
    lines.pop(1, Duration::ZERO).unwrap().pop().unwrap()
}

/// Takes an entry that is done at once.
fn next<T>(lines: &Lines<T>) -> T {
    let (line, entry) = one(lines);
    lines.done(line);
    entry
}

fn ahead<T>(lines: &Lines<T>, client: u64) -> usize {
    lines.outlook(line(client)).ahead
}

#[test]
fn lines_are_served_in_turn() {
    let lines = Lines::new(ANY);
    (0..4).for_each(|n| lines.push(line(1), (1, n), ANY));
    assert_eq!((ahead(&lines, 1), ahead(&lines, 2)), (4, 1));
    assert_eq!((lines.waiting(line(1)), lines.waiting(line(2))), (4, 0));
    lines.push(line(2), (2, 0), ANY);
    lines.push(line(3), (3, 0), ANY);
    assert_eq!((ahead(&lines, 1), ahead(&lines, 2), ahead(&lines, 4)), (6, 4, 3));
    let order: Vec<_> = (0..6).map(|_| next(&lines)).collect();
    assert_eq!(order, [(1, 0), (2, 0), (3, 0), (1, 1), (1, 2), (1, 3)]);
}

#[test]
fn whoever_has_the_least_at_work_is_next() {
    let lines = Lines::new(ANY);
    (0..4).for_each(|n| lines.push(line(1), (1, n), ANY));
    let first = one(&lines);
    assert_eq!((ahead(&lines, 1), ahead(&lines, 2)), (3, 0));
    lines.push(line(2), (2, 0), ANY);
    lines.push(line(2), (2, 1), ANY);
    // Of client 2 nothing is at work; then as much as of client 1, whose turn was before.
    let order: Vec<_> = (0..3).map(|_| one(&lines).1).collect();
    assert_eq!((first.1, &order[..]), ((1, 0), &[(2, 0), (1, 1), (2, 1)][..]));
}

#[test]
fn one_client_never_keeps_all_threads_busy() {
    let lines = Arc::new(Lines::new(2));
    (0..4).for_each(|n| lines.push(line(1), n, ANY));
    lines.push(Line { client: 1, urgent: false }, 4, ANY);
    let taken = lines.pop(9, Duration::ZERO).unwrap();
    assert_eq!(taken.len(), 2, "its writes and its queries together");
    let other = lines.clone();
    let waiting = std::thread::spawn(move || one(&other).1);
    std::thread::sleep(Duration::from_millis(20));
    assert!(!waiting.is_finished());
    lines.push(line(2), 9, ANY);
    assert_eq!(waiting.join().unwrap(), 9);
    let other = lines.clone();
    let waiting = std::thread::spawn(move || one(&other).1);
    std::thread::sleep(Duration::from_millis(20));
    assert!(!waiting.is_finished());
    lines.done(line(1));
    assert!(waiting.join().unwrap() < 5);
}

/// Takes what may be taken at `now`: of which clients.
fn clients(state: &mut State<u32>, most_of_one: usize, now: Instant) -> Vec<u64> {
    std::iter::from_fn(|| state.take(most_of_one, now)).map(|(line, _)| line.client).collect()
}

fn waiting(clients: &[(u64, u32)]) -> State<u32> {
    let mut state = State::new();
    for &(client, entries) in clients {
        state.turns.push_back(line(client));
        state.lines.insert(line(client), Waiting { entries: (0..entries).collect(), since: Instant::now() });
    }
    state
}

#[test]
fn a_flood_leaves_a_thread_while_others_are_served() {
    let start = Instant::now();
    let after = |millis| start + Duration::from_millis(millis);
    // Alone it has all that may be one client's.
    assert_eq!(clients(&mut waiting(&[(1, 9)]), 4, start), [1; 4]);
    // Beside one that was served within the last second, one less; and again all, a second later.
    let mut state = waiting(&[(2, 1), (1, 9)]);
    assert_eq!(clients(&mut state, 4, start), [2, 1, 1, 1]);
    assert_eq!(clients(&mut state, 4, after(999)), [0; 0]);
    assert_eq!(clients(&mut state, 4, after(1000)), [1]);
    // Whoever comes back takes one of its threads away, and has at least one itself.
    let mut state = waiting(&[(2, 1), (1, 9)]);
    assert_eq!(clients(&mut state, 1, start), [2, 1]);
    let mut state = waiting(&[(1, 9), (2, 9)]);
    assert_eq!(clients(&mut state, 2, start), [1, 2]);
}

#[test]
fn who_was_served_last_does_not_hide_the_others() {
    let (mut served, start) = (Served::default(), Instant::now());
    let after = |millis| start + Duration::from_millis(millis);
    assert!(!served.others(1, start));
    served.mark(1, start);
    assert!(!served.others(1, start) && served.others(2, start));
    served.mark(2, after(100));
    (200..900).step_by(100).for_each(|at| served.mark(1, after(at)));
    assert!(served.others(1, after(1099)) && !served.others(1, after(1100)));
    assert!(served.others(2, after(1799)) && !served.others(2, after(1800)));
}

#[test]
fn a_thread_that_was_left_is_used_once_the_others_are_gone() {
    let lines = Lines::new(2);
    lines.push(line(2), 9, ANY);
    assert_eq!(next(&lines), 9);
    (0..2).for_each(|n| lines.push(line(1), n, ANY));
    let start = Instant::now();
    assert_eq!((one(&lines).1, one(&lines).1), (0, 1), "nothing is done meanwhile");
    assert!(start.elapsed() > SHARING / 2, "{:?}", start.elapsed());
}

#[test]
fn a_clients_queries_do_not_wait_for_its_writes() {
    let lines = Lines::new(ANY);
    let writes = Line { client: 1, urgent: false };
    (0..3).for_each(|n| lines.push(writes, n, ANY));
    lines.push(line(1), 9, ANY);
    let order: Vec<_> = (0..4).map(|_| next(&lines)).collect();
    assert_eq!(order, [0, 9, 1, 2]);
}

#[test]
fn the_longest_line_gives_way() {
    let lines = Lines::new(ANY);
    (0..3).for_each(|n| lines.push(line(1), n, ANY));
    assert_eq!(lines.shed(line(1)), None, "not for itself");
    assert_eq!(lines.shed(line(2)), Some(2));
    lines.push(line(2), 9, ANY);
    assert_eq!(lines.shed(line(2)), None, "both would have one more than the other");
    assert_eq!(lines.shed(line(3)), Some(1));
    assert_eq!(lines.shed(line(3)), None);
    assert_eq!([next(&lines), next(&lines)], [0, 9]);
}

#[test]
fn a_line_stands_from_its_first_entry_until_it_is_empty() {
    let lines = Lines::new(ANY);
    assert_eq!(lines.outlook(line(1)).standing, Duration::ZERO);
    (0..2).for_each(|n| lines.push(line(1), n, ANY));
    std::thread::sleep(Duration::from_millis(5));
    next(&lines);
    let standing = lines.outlook(line(1)).standing;
    assert!(standing >= Duration::from_millis(5) && lines.outlook(line(2)).standing == Duration::ZERO);
    next(&lines);
    assert_eq!(lines.outlook(line(1)).standing, Duration::ZERO);
}

#[test]
fn takes_what_waits_up_to_the_most() {
    let lines = Lines::new(ANY);
    (0..5).for_each(|n| lines.push(line(1), n, ANY));
    let some = |most| lines.pop(most, Duration::ZERO).map(|all| all.into_iter().map(|(_, n)| n).collect::<Vec<_>>());
    assert_eq!(some(3), Some(vec![0, 1, 2]));
    assert_eq!(some(3), Some(vec![3, 4]));
    lines.push(line(1), 5, ANY);
    lines.close();
    lines.push(line(1), 6, ANY);
    assert_eq!(some(1), None);
}

#[test]
fn in_a_full_queue_only_those_may_add_who_have_nothing_in_it() {
    let lines = Arc::new(Lines::new(ANY));
    lines.push(line(1), 1, 1);
    let other = Arc::clone(&lines);
    let adding = std::thread::spawn(move || other.push(line(1), 2, 1));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!adding.is_finished());
    lines.push(line(2), 9, 1);
    assert_eq!([next(&lines), next(&lines)], [1, 9]);
    adding.join().unwrap();
    assert_eq!(next(&lines), 2);
    lines.push(line(1), 3, 1);
    let other = Arc::clone(&lines);
    let adding = std::thread::spawn(move || other.push(line(1), 4, 1));
    lines.close();
    adding.join().unwrap();
}

#[test]
fn gathers_what_comes_soon() {
    let lines = Arc::new(Lines::new(ANY));
    let other = Arc::clone(&lines);
    let thread = std::thread::spawn(move || other.pop(2, Duration::from_secs(20)).unwrap().len());
    lines.push(line(1), 1, ANY);
    lines.push(line(2), 2, ANY);
    let start = Instant::now();
    assert_eq!(thread.join().unwrap(), 2);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn nothing_is_lost_or_doubled_between_threads() {
    let lines = Arc::new(Lines::new(3));
    let takers: Vec<_> = (0..4)
        .map(|n| {
            let lines = Arc::clone(&lines);
            std::thread::spawn(move || {
                let mut taken = Vec::new();
                while taken.len() < 250 {
                    let most = (n % 3 + 1).min(250 - taken.len());
                    for (line, n) in lines.pop(most, Duration::from_micros(50)).unwrap() {
                        taken.push(n);
                        lines.done(line);
                    }
                }
                taken
            })
        })
        .collect();
    (0..1000).for_each(|n| lines.push(line(n as u64 % 7), n, 50));
    let mut all: Vec<i32> = takers.into_iter().flat_map(|t| t.join().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..1000).collect::<Vec<_>>());
}

#[test]
fn a_closed_queue_lets_everybody_go() {
    let lines = Arc::new(Lines::<u32>::new(ANY));
    let other = lines.clone();
    let waiting = std::thread::spawn(move || other.pop(1, Duration::ZERO).is_none());
    lines.close();
    assert!(waiting.join().unwrap());
    lines.push(line(1), 1, ANY);
    assert_eq!((lines.pop(1, Duration::ZERO).is_none(), ahead(&lines, 1)), (true, 0));
}
