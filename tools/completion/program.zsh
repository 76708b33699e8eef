#compdef @NAMES@
# Completion of hammer and its fellows for zsh, made by `hammer completion zsh`; see hammer(8).
# Words are handed to compadd as they are, and it quotes them: nothing that is read is ever expanded or run.

@TABLES@

# Offer words, each maybe with a tab and what is to be said of it behind.
_hammer_offer() {
    local line
    local -a words_found about open_found open_about
    for line; do
        if [[ ${line%%$'\t'*} == *[=/] ]]; then
            open_found+=("${line%%$'\t'*}") open_about+=("${line/$'\t'/  -- }")
        elif [[ -n $line ]]; then
            words_found+=("${line%%$'\t'*}") about+=("${line/$'\t'/  -- }")
        fi
    done
    compadd -l -d about -a -- words_found
    compadd -l -S '' -d open_about -a -- open_found
}

# Offer what a file system knows.
_hammer_ask() {
    _hammer_offer "${(@f)$(command hammer completion "$1" -- "$plain[@]" "${(Q)PREFIX}" </dev/null 2>/dev/null)}"
}

# Offer what a kind of thing may be; the second argument is the key of its words.
_hammer_offer_kind() {
    case $1 in
    words)
        _hammer_offer "${(@f)_hammer_words[$2]}" ;;
    list)
        compset -P '*,'
        compadd -S '' -- "${(@f)_hammer_words[$2]}" ;;
    moment)
        _hammer_ask moments ;;
    tid)
        _hammer_ask tids ;;
    link-or-tid)
        _hammer_ask tids
        _files ;;
    pfs)
        [[ -n $volumes ]] && _hammer_ask pfs
        _files ;;
    inside)
        [[ -n $volumes || $PREFIX == *@@* ]] && _hammer_ask paths
        (( compstate[nmatches] )) || _files ;;
    directory)
        _files -/ ;;
    volumes)
        compset -P '*:'
        _files ;;
    file)
        _files ;;
    esac
}

_hammer() {
    local command key word option ended volumes
    local -i count=0
    local -a plain wanted kinds
    plain=("${(@Q)words[1,CURRENT-1]}")
    command=${plain[1]:t}
    command=${_hammer_aliases[$command]:-$command}
    key=$command
    for word in "${(@)plain[2,-1]}"; do
        if (( $#wanted )); then
            shift wanted
        elif [[ -z $ended && $word == -- ]]; then
            ended=1
        elif [[ -z $ended && $word == -?* ]]; then
            option="$key $word"
            [[ $word == -f ]] && volumes=$_hammer_values[$option]
            wanted=(${(f)_hammer_values[$option]})
        elif [[ $key == $command && -n $_hammer_verbs[$command] ]]; then
            key="$command $word"
            [[ -n $_hammer_options[$key] ]] || return 1
        else
            count+=1
        fi
    done
    if (( $#wanted )); then
        _hammer_offer_kind $wanted[1] $option
    elif [[ -z $ended && $PREFIX == --*=* ]]; then
        option="$key ${PREFIX%%=*}"
        compset -P '*='
        kinds=(${(f)_hammer_values[$option]})
        _hammer_offer_kind ${kinds[1]:-nothing} $option
    elif [[ -z $ended && $PREFIX == -* ]]; then
        _hammer_offer "${(@f)_hammer_options[$key]}"
    elif [[ $key == $command && -n $_hammer_verbs[$command] ]]; then
        _hammer_offer "${(@f)_hammer_verbs[$command]}"
    else
        kinds=(${(f)_hammer_arguments[$key]})
        if [[ $kinds[-1] == ... ]] && (( count > $#kinds - 2 )); then
            count=$(( $#kinds - 2 ))
        fi
        _hammer_offer_kind ${kinds[count+1]:-nothing} "$key $count"
    fi
    (( compstate[nmatches] ))
}

# Loaded by compinit, this file is the function itself; sourced, it only defines it.
if [[ $funcstack[1] == _hammer ]]; then
    _hammer "$@"
elif (( $+functions[compdef] )); then
    compdef _hammer @NAMES@
fi
