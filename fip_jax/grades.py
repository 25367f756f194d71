"""The few words that a run's verdict is one of, in `summary.json`, in the report and for `--fail_on`."""

GRADES = {
    "removed": "the trigger no longer works, and the images suffice to say so",
    "reduced": "the trigger works less often, but it is not gone",
    "not_removed": "the trigger still works",
    "harmed": "the network lost much of its accuracy, whatever became of the trigger",
    "inconclusive": "too few images, or too little of the purification took place, to say",
    "nothing_to_remove": "the trigger hardly worked before",
    "no_trigger_known": "no trigger was known, so that nothing can be said of a backdoor",
    "not_purified": "the network was inspected alone",
}
EXIT_STATUS = 3  # of a run that ended with a verdict in `--fail_on`; 2 is a refusal
