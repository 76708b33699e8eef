# Completion of hammer and its fellows for fish, made by `hammer completion fish`; see hammer(8).
# Words are printed as they are, and fish quotes them: nothing that is read is ever expanded or run.

@TABLES@

# Print what a file system knows; base stands before each word.
function __hammer_ask --no-scope-shadowing
    for found in (command hammer completion $argv[1] -- $plain (string replace -- "$base" '' $current) </dev/null 2>/dev/null)
        printf '%s\n' $base$found
    end
end

# Print what a kind of thing may be; the second argument is the key of its words.
function __hammer_offer_kind --no-scope-shadowing
    switch $argv[1]
        case words
            printf '%s\n' $base(__hammer_words $argv[2])
        case list
            string match -q -- '*,*' $current; and set base (string replace -r -- '[^,]*$' '' $current)
            printf '%s\n' $base(__hammer_words $argv[2])
        case moment
            __hammer_ask moments
        case tid
            __hammer_ask tids
        case link-or-tid
            __hammer_ask tids
            __fish_complete_path $current
        case pfs
            test -n "$volumes"; and __hammer_ask pfs
            __fish_complete_path $current
        case inside
            if test -n "$volumes"; or string match -q -- '*@@*' $current
                __hammer_ask paths
            else
                __fish_complete_path $current
            end
        case directory
            __fish_complete_directories $current
        case file volumes
            __fish_complete_path $current
    end
end

function __hammer_complete
    set -l plain (commandline -opc)
    set -l current (commandline -ct | string unescape; or commandline -ct)
    set -l command (string replace -r -- '.*/' '' $plain[1])
    set -l alias (__hammer_aliases $command)
    test -n "$alias"; and set command $alias
    set -l key $command
    set -l verbs (__hammer_verbs $command)
    set -l count 0
    set -l base ''
    set -l wanted
    set -l option
    set -l ended
    set -l volumes
    for word in $plain[2..-1]
        if set -q wanted[1]
            set -e wanted[1]
        else if test -z "$ended" -a "$word" = --
            set ended 1
        else if test -z "$ended"; and string match -q -- '-?*' $word
            set option "$key $word"
            set wanted (__hammer_values $option)
            test "$word" = -f; and set volumes $wanted
        else if test "$key" = "$command"; and set -q verbs[1]
            set key "$command $word"
            test (count (__hammer_options $key)) -gt 0; or return
        else
            set count (math $count + 1)
        end
    end
    if set -q wanted[1]
        __hammer_offer_kind $wanted[1] $option
    else if test -z "$ended"; and string match -q -- '--*=*' $current
        set base (string replace -r -- '=.*' '=' $current)
        set option "$key "(string replace -r -- '=.*' '' $current)
        __hammer_offer_kind (__hammer_values $option; or echo nothing)[1] $option
    else if test -z "$ended"; and string match -q -- '-*' $current
        __hammer_options $key
    else if test "$key" = "$command"; and set -q verbs[1]
        printf '%s\n' $verbs
    else
        set -l kinds (__hammer_arguments $key)
        if test "$kinds[-1]" = ...; and test $count -gt (math (count $kinds) - 2)
            set count (math (count $kinds) - 2)
        end
        set -q kinds[(math $count + 1)]; or return
        __hammer_offer_kind $kinds[(math $count + 1)] "$key $count"
    end
end

for name in @NAMES@
    complete -c $name -f -a '(__hammer_complete)'
end
