//! Several steps that are taken all, or none. What a step does is the caller's.

/// Takes one step after the other. If one fails they are undone, the last first: also the one that failed, which may have
/// been taken in part. What cannot be undone, `undo` notes in the context.
pub fn all_or_none<C: ?Sized, S, E>(
    context: &mut C,
    steps: impl IntoIterator<Item = S>,
    take: impl Fn(&mut C, &S) -> Result<(), E>,
    undo: impl Fn(&mut C, &S),
) -> Result<(), E> {
    let mut taken = Vec::new();
    for step in steps {
        let result = take(context, &step);
        taken.push(step);
        if let Err(error) = result {
            taken.iter().rev().for_each(|step| undo(context, step));
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::all_or_none;

    #[test]
    fn what_was_taken_before_a_failure_is_undone_the_last_first() {
        for fails in 0..4 {
            let mut done = Vec::new();
            let result = all_or_none(
                &mut done,
                0..3,
                |done, step| {
                    done.push(*step);
                    if *step == fails { Err(*step) } else { Ok(()) }
                },
                |done, step| assert_eq!(done.pop(), Some(*step)),
            );
            let expected = if fails < 3 { (Err(fails), vec![]) } else { (Ok(()), vec![0, 1, 2]) };
            assert_eq!((result, done), expected);
        }
    }
}
